// What a race ends in, and the race once more with both lanes side by side.

const AROUND = 24; // characters of context where two texts part

/** {isSame, headline, details} of two finished lanes. */
export function judge(first, second) {
  const place = parting(first.text, second.text);
  const times = `${first.drafter} took ${first.seconds.toFixed(2)} s, ${second.drafter} ${second.seconds.toFixed(2)} s.`;
  const ratio = first.seconds / Math.max(0.001, second.seconds);
  if (place < 0) {
    return { isSame: true, headline: `Identical text, ${ratio.toFixed(ratio < 0.95 ? 2 : 1)}×`, details: times };
  }
  const around = [first, second].map(({ text }) => `“${text.slice(Math.max(0, place - AROUND), place + AROUND)}”`);
  return { isSame: false, headline: "The texts differ", details: `From character ${place + 1} on: ${around.join(" against ")}. ${times}` };
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
      Object.assign(lane, { record: chunks, seconds });
      lane.finish();
    }
  }
}
