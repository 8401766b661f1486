// One answer as it appears: coloured text, a clock, four figures. A race has two lanes.
import { StepCard } from "./card.js";
import { inWords } from "../drafters.js";
import { readStep } from "./steps.js";

const TICK = 100; // milliseconds between two updates: drawing takes the processor from a model on the same machine
const LONG = 8000; // milliseconds without a token after which the reader is told why

/** What a chunk adds to the answer: text, or a part of a call of a tool. */
function said(chunk) {
  const { content, tool_calls: calls } = chunk.choices?.[0]?.delta ?? {};
  return (content ?? "") + (calls ?? []).map((call) => (call.function.name ?? "") + call.function.arguments).join("");
}

/** `onSelect(lane, index)` is told which step the reader chose. */
export class Lane {
  constructor(template, palette, onSelect) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.palette = palette;
    this.onSelect = onSelect;
    this.area = this.element.querySelector(".text");
    this.clock = this.element.querySelector(".clock");
    this.note = this.element.querySelector(".note");
    this.card = new StepCard(this.element, palette);
    this.#listen();
    this.reset("");
  }

  /** Empties the lane for another answer. */
  reset(drafter) {
    Object.assign(this, { drafter, text: "", steps: [], record: [], numShown: 0, summary: null, finishReason: null, seconds: 0, selected: -1 });
    this.totals = { tokens: 0, guesses: 0, kept: 0, milliseconds: 0 };
    this.title = drafter && inWords(drafter);
    this.element.querySelector("h2").textContent = this.title;
    this.area.replaceChildren();
    this.area.setAttribute("aria-label", `Answer by ${this.title}. Left and right arrow keys walk through its steps.`);
    this.card.hide();
    this.note.textContent = "";
    this.element.classList.remove("running", "empty");
    this.#showFigures();
    this.showClock(0);
  }

  /** Starts the clock. */
  start() {
    this.startedAt = performance.now();
    this.note.textContent = "Reading the prompt…";
    this.element.classList.add("running");
    const tick = () => {
      if (!this.element.classList.contains("running")) return;
      const waited = performance.now() - this.startedAt;
      this.showClock(waited / 1000);
      this.#showNew();
      if (waited > LONG && !this.text && !this.steps.length) this.note.textContent = "Still reading: long prompts take time, and so do other requests to this server.";
      setTimeout(tick, TICK);
    };
    tick();
  }

  /** Takes one chunk of the stream and remembers when it came; it is shown with the next update. */
  add(chunk) {
    const at = (performance.now() - this.startedAt) / 1000;
    this.record.push({ at, chunk });
    if (chunk.trace || said(chunk)) this.seconds = at;
  }

  /** Shows a whole answer of a trace: its `steps` and the `seconds` they took. */
  showTrace({ steps, seconds }) {
    for (const trace of steps) this.#read({ trace });
    this.seconds = seconds;
    this.finish("From a trace.");
  }

  /** Shows one chunk. */
  show(chunk) {
    this.#read(chunk);
    this.#showFigures();
  }

  #showNew() {
    if (this.numShown === this.record.length) return;
    while (this.numShown < this.record.length) this.#read(this.record[this.numShown++].chunk);
    this.#showFigures();
  }

  #read(chunk) {
    const choice = chunk.choices?.[0];
    const content = said(chunk);
    if (chunk.trace || content) this.note.textContent = "";
    this.text += content;
    if (chunk.trace) this.#append(readStep(chunk.trace));
    else if (content) this.area.append(content);
    if (choice?.finish_reason) this.finishReason = choice.finish_reason;
    if (chunk.speculative) this.summary = chunk.speculative;
  }

  /** Stops the clock at the last token. `note` says how it ended when it did not end by itself. */
  finish(note = "") {
    this.#showNew();
    this.element.classList.remove("running");
    this.showClock(this.seconds);
    const ends = { length: "Ended at the length you asked for.", tool_calls: "The model calls a tool: this is the call as it wrote it." };
    const reason = ends[this.finishReason] ?? (this.text || this.steps.length ? "" : "The answer is empty.");
    this.note.textContent = note || reason;
    this.#showFigures();
  }

  showClock(seconds) {
    this.clock.textContent = `${seconds.toFixed(2)} s`;
  }

  get numTokens() {
    return this.totals.tokens;
  }

  /** Marks a step in the text. */
  select(index) {
    this.area.querySelector(".step.chosen")?.classList.remove("chosen");
    this.selected = index;
    this.#span(index)?.classList.add("chosen");
  }

  #append(step) {
    const span = document.createElement("span");
    span.className = "step";
    span.dataset.index = this.steps.length;
    this.steps.push(step);
    const { totals } = this;
    totals.tokens += step.tokens.length;
    totals.guesses += step.nodes.filter((node) => !node.isAgain).length;
    totals.kept += step.tokens.filter((token) => token.kind === "guess").length;
    totals.milliseconds += step.milliseconds;
    for (const { text, source, kind } of step.tokens) {
      const token = document.createElement("span");
      token.className = text.trim() ? `token ${kind}` : `token blank ${kind}`;
      token.textContent = text;
      if (source) this.palette.paint(token, source);
      span.append(token);
    }
    this.area.append(span);
  }

  #showFigures() {
    const { tokens, guesses, kept, milliseconds } = this.totals;
    const drafted = this.summary?.num_draft_tokens ?? guesses;
    const accepted = this.summary?.num_accepted_tokens ?? kept;
    const figures = {
      speed: milliseconds ? (this.summary?.tokens_per_second ?? (1000 * tokens) / milliseconds).toFixed(0) : "–",
      acceptance: tokens ? (this.summary?.tokens_per_step ?? tokens / this.steps.length).toFixed(2) : "–",
      kept: drafted ? `${accepted} of ${drafted}` : "–",
      tokens: tokens || "–",
    };
    for (const [name, value] of Object.entries(figures)) this.element.querySelector(`[data-figure=${name}]`).textContent = value;
  }

  #span(index) {
    return this.area.querySelector(`.step[data-index="${index}"]`);
  }

  #preview(index) {
    const span = this.#span(index);
    if (span) this.card.show(this.steps[index], index, span);
  }

  #listen() {
    const indexAt = (event) => event.target.closest?.(".step")?.dataset.index;
    this.area.addEventListener("pointerover", (event) => {
      const index = indexAt(event);
      if (index !== undefined) this.#preview(Number(index));
      else this.card.hide();
    });
    this.area.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.card.hide(); // a finger that is lifted has read nothing yet
    });
    this.area.addEventListener("blur", () => this.card.hide());
    this.area.addEventListener("click", (event) => {
      const index = indexAt(event);
      if (index !== undefined) this.onSelect(this, Number(index));
    });
    this.area.addEventListener("keydown", (event) => {
      const last = this.steps.length - 1;
      const goal = { ArrowLeft: this.selected - 1, ArrowRight: this.selected + 1, Home: 0, End: last }[event.key];
      if (goal === undefined || last < 0) return;
      event.preventDefault();
      const index = Math.min(last, Math.max(0, goal));
      this.onSelect(this, index);
      this.#span(index).scrollIntoView({ block: "nearest" });
      this.#preview(index);
    });
  }
}
