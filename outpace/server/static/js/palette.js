// One colour for every drafter, and what the marks mean.

const NUM_COLOURS = 6;
const MARKS = [
  ["corrected", "corrected", "The model’s own token where it rejected the draft tokens"],
  ["bonus", "bonus", "The model’s own token after draft tokens that were all accepted"],
  ["again", "unconfirmed", "The model’s own token of the step before, verified again in this step"],
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
    const entries = [...names].map((name) => this.paint(entry("guess", name, `Drafted by ${name} and accepted`), name));
    for (const [kind, label, meaning] of MARKS) if (kinds.has(kind)) entries.push(entry(kind, label, meaning));
    const rejected = steps.some((step) => step.nodes.some((node) => node.state === "rejected"));
    if (rejected) entries.push(entry("rejected", "rejected", "A draft token that the model rejected: point at a token to see them"));
    element.replaceChildren(...entries);
    element.hidden = !entries.length;
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

function entry(kind, label, meaning) {
  const element = document.createElement("span");
  const sample = document.createElement("span");
  sample.className = `token ${kind}`;
  sample.textContent = label;
  element.title = meaning;
  element.append(sample);
  return element;
}
