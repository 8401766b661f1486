// The draft tree of one step as a drawing: the path the text took runs along the top, rejected draft tokens hang below.
import { svg } from "./svg.js";
import { inWords } from "../drafters.js";
import { visible } from "./steps.js";

const LETTER = 7.85; // width of a letter in the drawing's 13 px monospace font
const SMALL_LETTER = 6.4; // of the notes below the boxes
const MAX_LETTERS = 18;
const HEIGHT = 28; // of a box, in pixels
const ROW = 52;
const SMALLEST = 0.8; // scale at which the drawing can still be read
const GAP = 30; // between columns

/** Draws `step` into `element`; `root` is the text of the token that the draft follows. */
export function drawTree(element, step, root, palette) {
  const nodes = layOut(step, root);
  const width = Math.max(...nodes.map((node) => node.x + node.width)) + 2;
  const height = (Math.max(...nodes.map((node) => node.row)) + 1) * ROW;
  const edges = nodes.filter((node) => node.parent).map(edge);
  const boxes = nodes.map((node) => box(node, palette));
  const scale = width * SMALLEST < element.clientWidth - 8 ? Math.min(1, (element.clientWidth - 8) / width) : 1; // else it scrolls
  const picture = svg("svg", { width: width * scale, height: height * scale, viewBox: `-1 -1 ${width} ${height}`, role: "img", "aria-label": describeTree(step) }, ...edges, ...boxes);
  element.replaceChildren(picture);
}

function layOut(step, root) {
  const first = { text: root, state: "root", depth: 0 };
  const drafted = step.nodes.map((node) => ({ ...node }));
  const nodes = [first, ...drafted];
  drafted.forEach((node) => {
    node.parent = node.parent < 0 ? first : drafted[node.parent];
    node.depth = node.parent.depth + 1;
  });
  const own = step.tokens.find((token) => ["corrected", "bonus", "plain"].includes(token.kind));
  if (own) {
    const parent = step.path.length ? drafted[step.path.at(-1)] : first;
    nodes.push({ text: own.text, state: "own", kind: own.kind, source: "", confidence: null, parent, depth: parent.depth + 1 });
  }
  placeRows(first, nodes);
  placeColumns(nodes);
  return nodes;
}

function placeRows(first, nodes) {
  const rank = { own: 0, accepted: 1, held: 2, rejected: 3 };
  const children = new Map(nodes.map((node) => [node, []]));
  nodes.forEach((node) => node.parent && children.get(node.parent).push(node));
  let numRows = 0;
  const place = (node) => {
    node.row = numRows;
    const sorted = children.get(node).sort((a, b) => rank[a.state] - rank[b.state]);
    if (!sorted.length) numRows += 1;
    sorted.forEach(place);
  };
  place(first);
}

function placeColumns(nodes) {
  const widths = [];
  for (const node of nodes) {
    const text = visible(node.text);
    node.label = text.length > MAX_LETTERS ? `${text.slice(0, MAX_LETTERS - 1)}…` : text;
    node.note = noteOf(node);
    node.width = Math.max(34, node.label.length * LETTER + 18, node.note.length * SMALL_LETTER);
    widths[node.depth] = Math.max(widths[node.depth] ?? 0, node.width);
  }
  for (const node of nodes) node.x = widths.slice(0, node.depth).reduce((sum, width) => sum + width + GAP, 0);
}

function edge({ parent, x, row, state }) {
  const [x0, y0, y1] = [parent.x + parent.width, parent.row * ROW + HEIGHT / 2, row * ROW + HEIGHT / 2];
  const bend = Math.max(x0 + 6, x - GAP / 2);
  return svg("path", { class: `edge ${state}`, d: `M${x0} ${y0}H${bend - 6}C${bend + 6} ${y0} ${bend - 6} ${y1} ${x} ${y1}` });
}

function box(node, palette) {
  const { x, row, width, label, state, kind, source, confidence, text } = node;
  const rect = svg("rect", { width, height: HEIGHT, rx: 7 });
  const word = svg("text", { x: width / 2, y: HEIGHT / 2 + 4.5, "text-anchor": "middle" }, label);
  const group = svg("g", { class: `node ${state}`, transform: `translate(${x} ${row * ROW})` }, rect, word);
  if (source) palette.paint(group, source);
  const confidences = percent(confidence);
  if (node.note) group.append(svg("text", { class: "small", x: width / 2, y: HEIGHT + 13, "text-anchor": "middle" }, node.note));
  const about = [JSON.stringify(text), state, kind, source && `drafted by ${inWords(source)}`, confidences && `confidence ${confidences}`];
  group.append(svg("title", {}, about.filter(Boolean).join(", ")));
  return group;
}

function noteOf({ kind, isAgain, state, confidence }) {
  return kind ?? (isAgain && state !== "root" ? "unconfirmed" : percent(confidence));
}

function percent(confidence) {
  return confidence === null || confidence === undefined ? "" : `${Math.round(100 * confidence)}%`;
}

function describeTree(step) {
  const nodes = step.nodes.map(({ text, state, source, confidence }) => `${visible(text)} ${state}${source ? ` by ${source}` : ""}${confidence === null ? "" : ` confidence ${Math.round(100 * confidence)}%`}`);
  return nodes.length ? `Draft tree: ${nodes.join("; ")}` : "No draft in this step";
}
