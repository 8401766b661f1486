// One colour for every drafter, and what the marks mean.
import { inWords } from "./drafters.js";

const NUM_COLOURS = 6;
const MARKS = [
  ["corrected", "corrected", "The model rejected the draft here and wrote its own token."],
  ["bonus", "bonus", "The whole draft was accepted: one more token, the model’s own."],
  ["again", "unconfirmed", "The model’s own token of the step before, checked once more in this step."],
  ["plain", "plain", "The model’s own token, in a step without a draft."],
];

/** Colours by name of drafter, given out in order of appearance; `none` never drafts and has none. */
export class Palette {
  #places = new Map();

  learn(names) {
    names.filter((name) => name && name !== "none").forEach((name) => this.#place(name));
  }

  /** Gives the element the colours of a source: `--c`, and `--c2` where two drafters proposed the same token. */
  paint(element, source) {
    const [first, second] = source.split("+");
    element.style.setProperty("--c", this.#colour(first));
    if (second) element.style.setProperty("--c2", this.#colour(second));
    return element;
  }

  /** Fills `element` with the drafters and kinds of tokens that occur in these steps. */
  drawLegend(element, steps) {
    const tokens = steps.flatMap((step) => step.tokens);
    const names = new Set(tokens.flatMap((token) => (token.source ? token.source.split("+") : [])));
    const kinds = new Set(tokens.map((token) => token.kind));
    const entries = [...names].map((name) => entry(this.paint(sample("guess", inWords(name)), name), "Proposed by this drafter, accepted by the model."));
    const shared = tokens.find((token) => token.source.includes("+"));
    if (shared) entries.push(entry(this.paint(sample("guess", "two colours"), shared.source), "Two drafters proposed the same token."));
    for (const [kind, label, meaning] of MARKS) if (kinds.has(kind)) entries.push(entry(sample(kind, label), meaning));
    const rejected = steps.some((step) => step.nodes.some((node) => node.state === "rejected"));
    if (rejected) entries.push(entry(sample("rejected", "rejected"), "Proposed and not accepted: point at a token, or tap it, to see those of its step."));
    if (tokens.some((token) => !token.source)) entries.push(entry(sample("swatch", ""), "In the bars: the model’s own tokens."));
    element.replaceChildren(...entries.flat());
  }

  #colour(name) {
    return `var(--drafter-${(this.#place(name) % NUM_COLOURS) + 1})`;
  }

  #place(name) {
    const key = name.split(":")[0]; // a spec's options do not change its colour
    if (!this.#places.has(key)) this.#places.set(key, this.#places.size);
    return this.#places.get(key);
  }
}

function sample(kind, label) {
  const element = document.createElement("span");
  element.className = kind === "swatch" ? kind : `token ${kind}`;
  element.textContent = label;
  return element;
}

function entry(element, meaning) {
  const term = document.createElement("dt");
  const words = document.createElement("dd");
  term.append(element);
  words.textContent = meaning;
  return [term, words];
}
