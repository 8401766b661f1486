// The step viewer: one step of one lane, walked with a slider, two buttons or the arrow keys.
import { describe } from "./steps.js";
import { drawTree } from "./tree.js";

export class Viewer {
  /** `parts`: the elements {section, title, slider, previous, next, caption, tree, hint}; `onSelect(lane, index)` moves. */
  constructor(parts, palette, onSelect) {
    Object.assign(this, { ...parts, palette, onSelect, lane: null, index: -1 });
    this.slider.addEventListener("input", () => this.#go(this.slider.valueAsNumber - 1));
    this.previous.addEventListener("click", () => this.#go(this.index - 1));
    this.next.addEventListener("click", () => this.#go(this.index + 1));
    this.tree.addEventListener("keydown", (event) => {
      const goal = { ArrowLeft: this.index - 1, ArrowRight: this.index + 1, Home: 0, End: Infinity }[event.key];
      if (goal === undefined) return;
      event.preventDefault();
      this.#go(goal);
    });
  }

  /** Shows a step. */
  show(lane, index) {
    Object.assign(this, { lane, index });
    const step = lane.steps[index];
    this.section.hidden = false;
    this.slider.max = lane.steps.length;
    this.slider.value = index + 1;
    this.slider.setAttribute("aria-valuetext", `Step ${index + 1} of ${lane.steps.length}`);
    this.title.textContent = `Step ${index + 1} of ${lane.steps.length}, ${lane.title}`;
    this.previous.disabled = index === 0;
    this.next.disabled = index === lane.steps.length - 1;
    this.caption.textContent = describe(step);
    drawTree(this.tree, step, lane.steps[index - 1]?.tokens.at(-1)?.text ?? "…", this.palette);
    this.tree.scrollLeft = 0;
    const isWide = this.tree.scrollWidth > this.tree.clientWidth;
    this.tree.classList.toggle("wide", isWide);
    this.hint.hidden = !isWide;
  }

  hide() {
    this.section.hidden = true;
    this.lane = null;
  }

  #go(index) {
    if (this.lane) this.onSelect(this.lane, Math.min(this.lane.steps.length - 1, Math.max(0, index)));
  }
}

/** The step worth looking at first: the one that accepted most draft tokens. */
export function bestStep(steps) {
  const kept = steps.map((step) => step.tokens.filter((token) => token.kind === "guess").length);
  return kept.indexOf(Math.max(...kept));
}
