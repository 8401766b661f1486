// The small card beside a step of the text: what was drafted there, rejected draft tokens struck out.
import { count, rejectedBranches, visible } from "./steps.js";

const MAX_BRANCHES = 5;
const MARGIN = 8; // pixels between the card and its step, and the edge of the lane

export class StepCard {
  constructor(lane, palette) {
    this.lane = lane;
    this.palette = palette;
    this.element = document.createElement("div");
    this.element.className = "step-card";
    this.element.setAttribute("aria-hidden", "true"); // the step viewer says the same in words
    this.element.hidden = true;
    lane.append(this.element);
  }

  /** Shows a step's draft tokens beside its place in the text. */
  show(step, index, span) {
    const head = document.createElement("p");
    head.className = "faint";
    head.textContent = `Step ${index + 1} · ${count(step.tokens.length, "token", "tokens")} · ${step.milliseconds.toFixed(1)} ms`;
    const taken = line(...step.tokens.map((token) => this.#token(token.kind, token.text, token.source)));
    const branches = rejectedBranches(step);
    const lines = branches.slice(0, MAX_BRANCHES).map((branch) => line(...branch.map((node) => this.#token(node.state, node.text, node.source))));
    if (branches.length > MAX_BRANCHES) lines.push(line(`and ${branches.length - MAX_BRANCHES} more`));
    this.element.replaceChildren(head, taken, ...lines);
    this.element.hidden = false;
    this.#place(span);
  }

  /** Whether a place on the page belongs to the lane's steps. */
  covers(target) {
    return this.lane.contains(target) && Boolean(target.closest?.(".step"));
  }

  hide() {
    this.element.hidden = true;
  }

  #token(kind, text, source) {
    const element = document.createElement("span");
    element.className = `token ${kind === "accepted" || kind === "held" ? "guess" : kind}`;
    element.textContent = visible(text);
    return source ? this.palette.paint(element, source) : element;
  }

  #place(span) {
    const lane = this.lane.getBoundingClientRect();
    const step = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const left = Math.min(step.left - lane.left, lane.width - this.element.offsetWidth - MARGIN);
    const below = step.bottom - lane.top + MARGIN;
    const fits = step.bottom + this.element.offsetHeight + 2 * MARGIN < innerHeight;
    this.element.style.left = `${Math.max(MARGIN, left)}px`;
    this.element.style.top = `${fits ? below : step.top - lane.top - this.element.offsetHeight - MARGIN}px`;
  }
}

function line(...children) {
  const element = document.createElement("p");
  element.append(...children);
  return element;
}
