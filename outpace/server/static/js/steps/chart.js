// Two small drawings: what every step gave and how fast it went; and the two lanes of a race over time.
import { svg } from "./svg.js";

const BARS = 92; // heights, in pixels
const GAP = 34;
const LINE = 64;
const LABEL = 16;
const WINDOW = 8; // steps that the speed is averaged over

/** Tokens of every step as stacked bars, tokens/s below. `onSelect(index)` is told which step was clicked. */
export function drawSteps(element, lane, palette, onSelect) {
  const width = element.clientWidth;
  const size = Math.max(1, Math.ceil((4 * lane.steps.length) / width)); // steps that share a bar
  const groups = [];
  for (let i = 0; i < lane.steps.length; i += size) groups.push(lane.steps.slice(i, i + size));
  const most = Math.max(4, ...groups.map((group) => numTokens(group) / group.length));
  const pitch = Math.min(18, width / groups.length);
  const bars = groups.map((group, i) => bar(group, i * pitch, Math.max(1, pitch - (pitch > 5 ? 2 : 0.5)), BARS / most, palette));
  const chosen = Math.floor(lane.selected / size);
  if (bars[chosen]) bars[chosen].classList.add("chosen");
  const speeds = groups.map((_, i) => speedAt(lane.steps, Math.min(lane.steps.length, (i + 1) * size)));
  const top = LABEL + BARS + GAP;
  const picture = svg(
    "svg",
    { width, height: top + LINE + 4, role: "img", "aria-label": `Tokens of each of ${lane.steps.length} steps, and tokens per second` },
    label(0, 11, `tokens in each step, at most ${Math.round(Math.max(...lane.steps.map((step) => step.tokens.length)))}`),
    svg("g", { transform: `translate(0 ${LABEL})` }, ...bars, svg("path", { class: "axis", d: `M0 ${BARS + 0.5}H${width}` })),
    label(0, top - 8, `tokens per second, in the last steps ${speeds.at(-1).toFixed(0)}`),
    svg("g", { transform: `translate(0 ${top})` }, line(speeds, pitch, Math.max(...speeds), "speed"), svg("path", { class: "axis", d: `M0 ${LINE + 0.5}H${width}` })),
  );
  picture.addEventListener("click", (event) => {
    const place = Math.floor((event.clientX - picture.getBoundingClientRect().left) / pitch) * size;
    if (place < lane.steps.length) onSelect(place);
  });
  element.replaceChildren(picture);
}

/** Both lanes of a race: tokens so far over each lane's own seconds. */
export function drawRace(element, lanes) {
  const width = element.clientWidth;
  const height = 170;
  const seconds = Math.max(0.1, ...lanes.map((lane) => lane.seconds));
  const tokens = Math.max(1, ...lanes.map((lane) => lane.numTokens));
  const x = (at) => (at / seconds) * (width - 2);
  const y = (number) => height - (number / tokens) * (height - 24);
  const curves = lanes.map((lane, i) => {
    let sum = 0;
    const points = [`M${x(0)} ${y(0)}`];
    for (const { at, chunk } of lane.record) {
      if (!chunk.trace) continue;
      sum += chunk.trace.tokens.length;
      points.push(`L${x(at).toFixed(1)} ${y(sum).toFixed(1)}`);
    }
    return sum ? svg("path", { class: `curve racer-${i}`, d: points.join("") }) : svg("g");
  });
  const axis = svg("path", { class: "axis", d: `M0 ${height + 0.5}H${width}` });
  const end = svg("text", { x: width, y: height + 16, "text-anchor": "end" }, `${seconds.toFixed(1)} s`);
  const about = { width, height: height + 22, role: "img", "aria-label": "Tokens of both lanes over time" };
  const picture = svg("svg", about, axis, label(0, 12, "tokens so far"), label(0, height + 16, "0 s"), end, ...curves);
  element.replaceChildren(racers(lanes), picture);
}

/** Whose curve is which, above the drawing, where no curve runs through the words. */
function racers(lanes) {
  const element = document.createElement("p");
  element.className = "racers";
  lanes.forEach((lane, i) => {
    const name = document.createElement("span");
    name.className = `racer-${i}`;
    name.textContent = `— ${lane.title}, ${lane.seconds.toFixed(2)} s`;
    element.append(name);
  });
  return element;
}

function bar(group, left, width, unit, palette) {
  const shares = new Map(); // source -> tokens, the model's own at the bottom
  shares.set("", 0);
  for (const { source } of group.flatMap((step) => step.tokens)) shares.set(source, (shares.get(source) ?? 0) + 1 / group.length);
  const rects = [];
  let top = BARS;
  for (const [source, number] of shares) {
    const height = number * unit;
    top -= height;
    const sides = source.split("+"); // drafters that proposed the same token share the width
    sides.forEach((name, i) => {
      const rect = svg("rect", { x: left + (i * width) / sides.length, y: top, width: width / sides.length, height, class: name ? "guess" : "own" });
      rects.push(name ? palette.paint(rect, name) : rect);
    });
  }
  return svg("g", { class: "bar" }, ...rects);
}

function line(values, pitch, most, name) {
  const points = values.map((value, i) => `${((i + 0.5) * pitch).toFixed(1)} ${(LINE - (value / most) * (LINE - 4)).toFixed(1)}`);
  return svg("path", { class: `curve ${name}`, d: `M${points.join("L")}` });
}

function label(x, y, text) {
  return svg("text", { x, y }, text);
}

function numTokens(steps) {
  return steps.reduce((sum, step) => sum + step.tokens.length, 0);
}

function speedAt(steps, end) {
  const window = steps.slice(Math.max(0, end - WINDOW), end);
  return (1000 * numTokens(window)) / Math.max(0.001, window.reduce((sum, step) => sum + step.milliseconds, 0));
}
