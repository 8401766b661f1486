// The form: the prompt, the examples, the drafters, the numbers. It forgets nothing the reader typed.
import { bodyOf } from "./api.js";
import { asCurl, asPython } from "./code.js";
import { explain, grouped, inWords, recommended } from "./drafters.js";
import * as settings from "./settings.js";

const OTHER = "other…"; // the choice that opens the field for a spec
const MAX_PASTE = 1_000_000; // characters: beyond, a text field freezes for seconds, and no model reads that much
const SAVE_AFTER = 300; // milliseconds without typing
const KEPT = ["prompt", "length", "temperature", "seed", "system", "schema", "tools", "drafter-spec", "rival-spec"];
const byId = (id) => document.getElementById(id);

export class Ask {
  constructor(form) {
    this.form = form;
    this.mine = ""; // the reader's own text while an example is shown
    this.example = ""; // the text of the example shown
    this.about = new Map(); // drafter -> what it does
    this.#restore();
    this.#listen();
    this.#sync();
  }

  get isRace() {
    return this.form.elements.mode.value === "race";
  }

  get key() {
    return byId("key").value.trim();
  }

  /** Fills the lists of drafters, those of the server's answer. */
  offer(drafters) {
    this.about = new Map(drafters.map((drafter) => [drafter.name, explain(drafter)]));
    const first = recommended(drafters);
    for (const [id, fallback] of [["drafter", first], ["rival", "none"]]) {
      const list = byId(id);
      const wanted = list.value || list.dataset.wanted || fallback;
      list.replaceChildren(...grouped(drafters).map(([title, names]) => group(title, names)), group("By its name in the API", [OTHER]));
      list.value = wanted;
      if (list.value !== wanted) list.value = this.about.has(fallback) ? fallback : OTHER; // that server has no such drafter
    }
    byId("drafters").hidden = false;
    this.#sync();
  }

  /** Chooses a race against plain decoding. */
  challenge() {
    this.form.elements.mode.value = "race";
    byId("rival").value = "none";
    this.#changed();
  }

  /** What to ask, or null when something is missing; then the reader has been told. */
  read() {
    const prompt = byId("prompt").value;
    if (!prompt.trim()) return this.#refuse("prompt", "Write a prompt first, or pick an example.");
    for (const [id, name] of [["length", "The number of tokens"], ["temperature", "The temperature"], ["seed", "The seed"]]) {
      const { min, max, validity } = byId(id);
      if (!validity.valid) return this.#refuse(id, `${name} must be a number from ${min} to ${max}${id === "temperature" ? "" : ", without decimals"}.`);
    }
    for (const id of this.isRace ? ["rival", "drafter"] : ["drafter"]) {
      if (!this.#spec(id)) return this.#refuse(`${id}-spec`, "Name a drafter, such as suffix+recycling.");
    }
    const documents = {};
    for (const [id, isRight, shape] of [["schema", (value) => value?.constructor === Object, "an object"], ["tools", Array.isArray, "a list"]]) {
      const text = byId(id).value.trim();
      documents[id] = text ? parsed(text) : null;
      if (text && !isRight(documents[id])) return this.#refuse(id, `The ${id === "schema" ? "JSON schema" : "list of tools"} must be ${shape} in JSON.`);
    }
    this.problem("");
    return {
      prompt,
      system: byId("system").value.trim(),
      ...documents,
      drafter: this.#spec("drafter"),
      rival: this.#spec("rival"),
      length: byId("length").valueAsNumber,
      temperature: byId("temperature").valueAsNumber,
      seed: byId("seed").value ? byId("seed").valueAsNumber : null,
    };
  }

  /** Tells the reader what is wrong; "" takes it back. */
  problem(message) {
    byId("problem").textContent = message;
    byId("problem").hidden = !message;
    if (!message) this.form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  }

  /** Shows the field for the key and nothing else; `message` says what was wrong with the last one. */
  lock(message) {
    this.#setLocked(true);
    this.problem(message);
    if (message) byId("key").setAttribute("aria-invalid", "true");
    byId("key").focus();
  }

  /** The key is right, or none is needed. */
  unlock() {
    if (!this.isLocked) return;
    this.#setLocked(false);
    this.problem("");
  }

  get isLocked() {
    return this.form.classList.contains("locked");
  }

  #setLocked(isLocked) {
    this.form.classList.toggle("locked", isLocked);
    byId("key-field").hidden = !isLocked;
  }

  /** Shows the request as code and copies it; `model` is the name that the server gave. */
  async showCode(language, model) {
    const wish = this.read();
    if (!wish) return;
    const write = language === "curl" ? asCurl : asPython;
    const text = write(bodyOf({ ...wish, model: model ?? "default" }), new URL("v1", location.href).href, Boolean(this.key));
    byId("code").hidden = false;
    byId("code").querySelector("pre").textContent = text;
    const isCopied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    byId("code-note").textContent = isCopied ? "Copied." : "Select and copy:";
  }

  #spec(id) {
    const { value } = byId(id);
    return value === OTHER || !value ? byId(`${id}-spec`).value.trim() : value;
  }

  #refuse(id, message) {
    this.problem(message);
    byId(id).setAttribute("aria-invalid", "true");
    byId(id).focus();
    return null;
  }

  #restore() {
    const saved = settings.load();
    for (const id of KEPT) if (saved[id] !== undefined) byId(id).value = saved[id];
    byId("more").open = Boolean(saved.system || saved.schema || saved.tools);
    for (const id of ["drafter", "rival"]) byId(id).dataset.wanted = saved[id] ?? "";
    if (saved.mode) this.form.elements.mode.value = saved.mode;
    this.mine = saved.mine ?? "";
    this.example = saved.example ?? "";
    byId("key").value = settings.loadKey();
  }

  #save() {
    const values = { mode: this.form.elements.mode.value, mine: this.mine, example: this.example };
    for (const id of KEPT) values[id] = byId(id).value;
    for (const id of ["drafter", "rival"]) values[id] = byId(id).value || byId(id).dataset.wanted;
    this.isKept = settings.save(values);
    this.#showCount();
  }

  #listen() {
    let timer = 0;
    const saveNow = () => this.#save();
    this.form.addEventListener("input", (event) => {
      event.target.removeAttribute?.("aria-invalid");
      this.#sync();
      clearTimeout(timer);
      timer = setTimeout(saveNow, SAVE_AFTER);
    });
    byId("prompt").addEventListener("paste", (event) => this.#checkSize(event, event.clipboardData));
    byId("prompt").addEventListener("drop", (event) => this.#checkSize(event, event.dataTransfer));
    addEventListener("pagehide", saveNow);
    document.addEventListener("visibilitychange", saveNow);
    byId("key").addEventListener("change", () => settings.saveKey(this.key));
    byId("forget").addEventListener("click", () => {
      settings.saveKey("");
      location.reload();
    });
    byId("code-close").addEventListener("click", () => { byId("code").hidden = true; });
    for (const button of this.form.querySelectorAll("[data-example]")) button.addEventListener("click", () => this.#pick(button.dataset.example));
    byId("mine").addEventListener("click", () => {
      byId("prompt").value = this.mine;
      this.#changed();
    });
  }

  #checkSize(event, data) {
    const { length } = data.getData("text");
    if (byId("prompt").value.length + length <= MAX_PASTE) return;
    event.preventDefault();
    this.problem(`That text has ${length.toLocaleString("en")} characters; the prompt takes ${MAX_PASTE.toLocaleString("en")}. Nothing was changed.`);
  }

  async #pick(name) {
    const response = await fetch(`static/examples/${name}.txt`).catch(() => null);
    if (!response?.ok) return this.problem("That example cannot be loaded. Is the server still running?");
    const prompt = byId("prompt");
    if (prompt.value.trim() && prompt.value !== this.example) this.mine = prompt.value;
    this.example = (await response.text()).trim();
    prompt.value = this.example;
    prompt.scrollTop = 0;
    this.#changed();
  }

  #changed() {
    this.problem("");
    this.#sync();
    this.#save();
  }

  #sync() {
    const isRace = this.isRace;
    this.form.querySelector(".rival").hidden = !isRace;
    this.form.classList.toggle("racing", isRace);
    byId("drafter-label").textContent = isRace ? "Second lane" : "Drafter";
    byId("run").textContent = isRace ? "Race" : "Run";
    byId("forget").hidden = !this.key;
    for (const id of ["drafter", "rival"]) byId(`${id}-spec`).hidden = byId(id).value !== OTHER;
    byId("about").textContent = this.about.get(byId("drafter").value) ?? "";
    byId("mine").hidden = !this.mine || byId("prompt").value === this.mine;
    this.#showCount();
  }

  #showCount() {
    const { length } = byId("prompt").value;
    const characters = length ? `${length.toLocaleString("en")} characters` : "";
    byId("count").textContent = this.isKept === false ? `${characters}, lost on reload` : characters;
  }
}

function group(title, names) {
  const element = document.createElement("optgroup");
  element.label = title;
  element.append(...names.map((name) => new Option(name.includes(":") ? name : inWords(name), name)));
  return element;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
