// The form: the prompt, the examples, the drafters, the numbers. It forgets nothing the reader typed.
import * as settings from "./settings.js";

const OTHER = "other…"; // the choice that opens the field for a spec
const MAX_PASTE = 1_000_000; // characters: beyond, a text field freezes for seconds, and no model reads that much
const SAVE_AFTER = 300; // milliseconds without typing
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

  /** Fills the lists of drafters: [{name, description, options}]. */
  offer(drafters) {
    this.about = new Map(drafters.map(({ name, description, options }) => [name, [description, optionsInWords(options)].join(" ").trim()]));
    for (const [id, fallback] of [["drafter", "prompt_lookup"], ["rival", "none"]]) {
      const list = byId(id);
      const wanted = list.value || list.dataset.wanted || fallback;
      list.replaceChildren(...[...this.about.keys(), OTHER].map((name) => new Option(name, name)));
      list.value = wanted;
      if (list.value !== wanted) list.value = this.about.has(fallback) ? fallback : OTHER; // that server has no such drafter
    }
    this.#sync();
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
    this.problem("");
    return {
      prompt,
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

  askForKey() {
    byId("key-field").hidden = false;
    byId("key").focus();
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
    for (const id of ["prompt", "length", "temperature", "seed", "drafter-spec", "rival-spec"]) if (saved[id] !== undefined) byId(id).value = saved[id];
    for (const id of ["drafter", "rival"]) byId(id).dataset.wanted = saved[id] ?? "";
    if (saved.mode) this.form.elements.mode.value = saved.mode;
    this.mine = saved.mine ?? "";
    this.example = saved.example ?? "";
    byId("key").value = settings.loadKey();
    byId("key-field").hidden = !byId("key").value;
  }

  #save() {
    const values = { mode: this.form.elements.mode.value, mine: this.mine, example: this.example };
    for (const id of ["prompt", "length", "temperature", "seed", "drafter-spec", "rival-spec"]) values[id] = byId(id).value;
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
    byId("drafter-label").textContent = isRace ? "Second lane" : "Drafter";
    byId("run").textContent = isRace ? "Race" : "Run";
    for (const id of ["drafter", "rival"]) byId(`${id}-spec`).hidden = byId(id).value !== OTHER && byId(id).length > 0;
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

function optionsInWords(options) {
  const pairs = Object.entries(options ?? {}).map(([key, value]) => `${key}=${value}`);
  return pairs.length ? `Options: ${pairs.join(", ")}.` : "";
}
