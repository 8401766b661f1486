// The page: connects the form, the lanes, the chart and the step viewer.
import * as api from "./api.js";
import { Ask } from "./ask.js";
import { drawRace, drawSteps } from "./steps/chart.js";
import { Lane } from "./steps/lane.js";
import { Palette } from "./palette.js";
import { judge, replay, sum } from "./race.js";
import { count } from "./steps/steps.js";
import { readTrace } from "./steps/trace.js";
import { connectTheme } from "./theme.js";
import { bestStep, Viewer } from "./steps/viewer.js";

const REDRAW_AFTER = 1000; // milliseconds: drawing must not take the processor from a model on the same machine
const REPLAYED = 20; // seconds: a longer race is replayed only on demand
const RETRY_AFTER = [2, 4, 8, 15]; // seconds between tries to reach the server
const byId = (id) => document.getElementById(id);

const ask = new Ask(byId("ask"));
const palette = new Palette();
const viewer = new Viewer(
  {
    section: byId("viewer"), title: byId("viewer-title"), slider: byId("step"), previous: byId("previous"), next: byId("next"),
    caption: byId("caption"), tree: byId("tree"), hint: byId("tree-hint"),
  },
  palette,
  select,
);
let lanes = [];
let model = null;
let running = null; // the AbortController of what runs now
let drawnAt = 0;
let isConnecting = false;

connectTheme(byId("theme"));
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (ask.isLocked) useKey();
  else start();
});
for (const button of document.querySelectorAll("[data-code]")) button.addEventListener("click", () => ask.showCode(button.dataset.code, model));
byId("stop").addEventListener("click", stop);
byId("open-trace").addEventListener("click", () => byId("trace-file").click());
byId("trace-file").addEventListener("change", openTrace);
byId("key").addEventListener("change", useKey);
document.addEventListener("pointerdown", ({ target }) => {
  for (const { card } of lanes) if (!card.covers(target)) card.hide(); // on a touch screen no pointer ever leaves a token
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    stop();
    lanes.forEach((lane) => lane.card.hide());
  }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !ask.isLocked) start();
});
addEventListener("resize", draw);
keepConnecting();

// ---- the server

async function connect() {
  const [names, drafters] = await Promise.all([api.models(ask.key), api.drafters(ask.key)]);
  model = names[0];
  palette.learn(drafters.map((drafter) => drafter.name));
  ask.offer(drafters);
  ask.unlock();
  byId("server").textContent = model;
  byId("server").classList.remove("away");
}

/** Tries the key in its field. */
function useKey() {
  if (ask.key) reconnect();
}

/** Asks the server anew: it may be another one now. */
function reconnect() {
  model = null;
  byId("server").textContent = "connecting…";
  if (!isConnecting) keepConnecting();
}

async function keepConnecting() {
  isConnecting = true;
  for (let tries = 0; !model; tries += 1) {
    try {
      await connect();
    } catch (error) {
      byId("server").textContent = error.status === 401 ? "needs a key" : "server not reached, trying again";
      byId("server").classList.add("away");
      if (error.status === 401) {
        ask.lock(ask.key ? "This key is not valid here. Check it and try again." : "");
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, 1000 * RETRY_AFTER[Math.min(tries, RETRY_AFTER.length - 1)]));
    }
  }
  isConnecting = false;
}

// ---- running

async function start() {
  if (running) return; // a second click
  begin();
  try {
    if (!model) await connect();
    const wish = ask.read();
    if (!wish) return;
    await (ask.isRace ? race(wish, running.signal) : single(wish, running.signal));
  } catch (error) {
    if (error.name !== "AbortError") report(error);
  } finally {
    end();
  }
}

function begin() {
  running = new AbortController();
  document.body.classList.add("busy");
  byId("run").setAttribute("aria-disabled", "true");
  byId("stop").hidden = false;
}

function stop() {
  running?.abort();
}

function report(error) {
  if (!(error instanceof api.ServerError)) console.error(error);
  ask.problem(error instanceof api.ServerError ? error.message : `Something in this page failed: ${error.message}`);
  if (error.status === 401) ask.lock("This key is not valid here any more.");
  if (!lanes.some((lane) => lane.record.length)) clear(); // nothing came: no empty card stays
  if (error.status === 0 || error.status === 404) reconnect();
}

function end() {
  const hadFocus = document.activeElement === byId("stop");
  running = null;
  document.body.classList.remove("busy");
  byId("run").removeAttribute("aria-disabled");
  byId("stop").hidden = true;
  if (hadFocus) byId("run").focus();
  const lane = lanes.findLast((one) => one.steps.length);
  if (lane) select(lane, bestStep(lane.steps));
  draw();
}

async function single(wish, signal) {
  const [lane] = lay([wish.drafter]);
  await play(lane, wish, signal);
  const found = sum(lane);
  if (found) showVerdict(found, "Race against plain decoding", () => {
    ask.challenge();
    start();
  });
  announce(`Answer complete: ${count(lane.numTokens, "token", "tokens")} in ${lane.seconds.toFixed(1)} seconds.`);
}

async function race(wish, signal) {
  const seed = wish.seed ?? Math.floor(Math.random() * 2 ** 31); // both lanes draw the same numbers
  lay([wish.rival, wish.drafter]);
  lanes[0].note.textContent = "Reading the prompt…";
  for await (const _ of api.answer({ ...wish, model, drafter: "none", length: 1 }, ask.key, signal));
  lanes[1].note.textContent = "Waits for its turn.";
  for (const lane of lanes) await play(lane, { ...wish, drafter: lane.drafter, seed }, signal);
  showVerdict(judge(...lanes), "Watch both again", watch);
  byId("fairness").hidden = false;
  const longest = Math.max(...lanes.map((lane) => lane.seconds));
  if (longest < REPLAYED && !matchMedia("(prefers-reduced-motion: reduce)").matches) await replay(lanes, signal);
}

async function play(lane, wish, signal) {
  lane.note.textContent = "";
  lane.start();
  let note = "Stopped.";
  try {
    for await (const chunk of api.answer({ ...wish, model }, ask.key, signal)) {
      lane.add(chunk);
      if (performance.now() - drawnAt > REDRAW_AFTER) draw();
    }
    note = "";
  } catch (error) {
    if (error.name !== "AbortError") note = "Broken off.";
    throw error;
  } finally {
    lane.finish(note);
  }
}

/** Says how it went; the button offers what to do next. */
function showVerdict({ tone, headline, details }, label, next) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", () => next());
  const words = document.createElement("div");
  words.append(paragraph(headline, "headline"), paragraph(details, "faint"));
  byId("verdict").replaceChildren(words, button);
  byId("verdict").className = `verdict card ${tone}`;
  byId("verdict").hidden = false;
}

async function watch() {
  if (running) return;
  begin();
  viewer.hide();
  try {
    await replay(lanes, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") report(error);
  } finally {
    end();
  }
}

// ---- a trace file

async function openTrace({ target }) {
  const [file] = target.files;
  if (!file || running) return;
  try {
    const trace = readTrace(await file.text());
    ask.problem("");
    showRequest(trace, 0);
    offerRequests(trace, file.name);
  } catch (error) {
    ask.problem(error.message);
  } finally {
    target.value = ""; // the same file may be opened again
  }
}

function showRequest(trace, index) {
  const request = trace.requests[index];
  const [lane] = lay([request.drafter]);
  lane.showTrace(request);
  select(lane, bestStep(lane.steps));
  draw();
}

/** Says what the trace has, with a list of its requests to choose from. */
function offerRequests(trace, name) {
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "Request of the trace");
  choice.append(...trace.requests.map(({ title, drafter, steps }, i) => new Option(`${title}, ${drafter}, ${count(steps.length, "step", "steps")}`, i)));
  choice.addEventListener("change", () => {
    showRequest(trace, Number(choice.value));
    byId("verdict").hidden = false;
  });
  const words = document.createElement("div");
  const details = trace.hasText ? trace.model : `${trace.model}; it has no texts: --trace-text writes them`;
  words.append(paragraph(`${count(trace.requests.length, "request", "requests")} in ${name}`, "headline"), paragraph(details, "faint"));
  byId("verdict").replaceChildren(words, choice);
  byId("verdict").className = "verdict card neutral";
  byId("verdict").hidden = false;
}

// ---- showing

function lay(names) {
  lanes = names.map((name) => {
    const lane = new Lane(byId("lane"), palette, select);
    lane.reset(name);
    return lane;
  });
  byId("lanes").replaceChildren(...lanes.map((lane) => lane.element));
  byId("lanes").classList.toggle("two", lanes.length > 1);
  for (const id of ["fairness", "verdict", "welcome", "chart-card", "legend-card"]) byId(id).hidden = true;
  viewer.hide();
  const { top } = byId("results").getBoundingClientRect();
  if (top > 0.7 * innerHeight) byId("results").scrollIntoView(); // below the form on a phone
  return lanes;
}

/** Back to the beginning, for a request that was refused. */
function clear() {
  lay([]);
  byId("welcome").hidden = false;
}

function draw() {
  drawnAt = performance.now();
  const steps = lanes.flatMap((lane) => lane.steps);
  if (!steps.length) return;
  byId("chart-card").hidden = false;
  byId("chart-title").textContent = lanes.length > 1 ? "Both lanes" : "Every step";
  if (lanes.length > 1) drawRace(byId("chart"), lanes);
  else drawSteps(byId("chart"), lanes[0], palette, (index) => select(lanes[0], index));
  palette.drawLegend(byId("legend"), steps);
  byId("legend-card").hidden = false;
}

function select(lane, index) {
  for (const other of lanes) other.select(other === lane ? index : -1);
  viewer.show(lane, index);
  if (lanes.length === 1) draw();
}

function announce(words) {
  byId("announce").textContent = words;
}

function paragraph(text, name) {
  const element = document.createElement("p");
  element.className = name;
  element.textContent = text;
  return element;
}
