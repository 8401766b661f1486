// What the reader chose, kept across reloads; a key is kept for this tab only.

const PLACE = "outpace.playground";
const KEY_PLACE = "outpace.key";

/** The saved values, {} when there are none or storage is off. */
export function load() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) ?? {};
  } catch {
    return {};
  }
}

/** Saves the values; false when storage is full (browsers give about 5 MB) or switched off. */
export function save(values) {
  try {
    localStorage.setItem(PLACE, JSON.stringify(values));
    return true;
  } catch {
    return false;
  }
}

export function loadKey() {
  try {
    return sessionStorage.getItem(KEY_PLACE) ?? "";
  } catch {
    return "";
  }
}

export function saveKey(key) {
  try {
    sessionStorage.setItem(KEY_PLACE, key);
  } catch {
    // storage is off: the key lives in its field
  }
}
