// What a race ends in, and the race once more with both lanes side by side.

const CLEAR = 1.05; // a smaller difference is not worth a word: clocks differ as much from run to run
const AROUND = 24; // characters of context where two texts part

/** {tone, headline, details} of two finished lanes; `tone` is "differs", "neutral" or "". */
export function judge(first, second) {
  const place = parting(first.text, second.text);
  const times = `${first.title}: ${first.seconds.toFixed(2)} s. ${second.title}: ${second.seconds.toFixed(2)} s.`;
  if (place >= 0) {
    const around = [first, second].map(({ text }) => `“${text.slice(Math.max(0, place - AROUND), place + AROUND)}”`);
    return { tone: "differs", headline: "The texts differ", details: `From character ${place + 1} on: ${around.join(" against ")}. ${times}` };
  }
  const ratio = first.seconds / Math.max(0.001, second.seconds);
  if (ratio >= CLEAR) return { tone: "", headline: `Same text, ${ratio.toFixed(1)}× as fast`, details: times };
  if (ratio > 1 / CLEAR) return { tone: "neutral", headline: "Same text, about as fast", details: times };
  const advice = "Drafting pays off where text repeats itself, as in the examples Edit and Summarise, or where the model is large.";
  return { tone: "neutral", headline: "Same text, not faster this time", details: `${times} ${advice}` };
}

/** The same for one answer: what the drafter was good for. Null if nothing was drafted. */
export function sum(lane) {
  const { tokens } = lane.totals;
  if (lane.drafter === "none" || !lane.steps.length) return null;
  const perStep = (lane.summary?.tokens_per_step ?? tokens / lane.steps.length).toFixed(1);
  const headline = `${perStep} tokens per step`;
  return { tone: "neutral", headline, details: "Plain decoding writes one token per step. A race shows how much time that saves." };
}

/** Where two texts part, -1 if they do not. */
export function parting(a, b) {
  if (a === b) return -1;
  let place = 0;
  while (place < a.length && place < b.length && a[place] === b[place]) place += 1;
  return place;
}

/** Shows both recorded lanes at once, each at the pace it had; resolves when the slower one is through. Throws AbortError. */
export async function replay(lanes, signal) {
  const records = lanes.map((lane) => ({ lane, chunks: lane.record, seconds: lane.seconds, summary: lane.summary, next: 0 }));
  for (const { lane } of records) {
    lane.reset(lane.drafter);
    lane.element.classList.add("running");
  }
  const startedAt = performance.now();
  const advance = (now) => {
    let isOver = true;
    for (const run of records) {
      while (run.next < run.chunks.length && run.chunks[run.next].at <= now) run.lane.show(run.chunks[run.next++].chunk);
      run.lane.showClock(Math.min(now, run.seconds));
      if (now >= run.seconds) run.lane.element.classList.remove("running");
      else isOver = false;
    }
    return isOver;
  };
  try {
    while (!advance((performance.now() - startedAt) / 1000)) {
      await new Promise(requestAnimationFrame);
      signal.throwIfAborted();
    }
  } finally {
    advance(Infinity); // however it ends, the lanes are whole again
    for (const { lane, chunks, seconds } of records) {
      Object.assign(lane, { record: chunks, numShown: chunks.length, seconds });
      lane.finish();
    }
  }
}
