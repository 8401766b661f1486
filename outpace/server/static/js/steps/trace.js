// A trace file (`--trace FILE` of the command line) as steps that the page can show.

const NO_TEXT = "•"; // a token of a trace without texts
const EMPTY = { parents: [], confidences: [], sources: [], accepted: [] };

/**
 * The requests of a trace: {model, requests: [{title, drafter, seconds, steps}]}, steps in the form of a chunk's `trace`.
 * Throws an Error whose message is for the reader.
 */
export function readTrace(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  const [header, ...steps] = lines.map((line, i) => parse(line, i === lines.length - 1)).filter(Boolean);
  if (!header?.trace) throw new Error("This is not a trace: `outpace generate --trace FILE` writes one.");
  if (header.trace !== 1) throw new Error("This trace was written by another version of outpace.");
  const requests = new Map();
  for (const step of steps) for (const answer of step.answers) addStep(requests, step, answer);
  if (!requests.size) throw new Error("This trace has no step that wrote a token.");
  return { model: header.model ?? "", hasText: Boolean(header.has_text), requests: [...requests.values()] };
}

function parse(line, isLast) {
  try {
    return JSON.parse(line);
  } catch {
    if (isLast) return null; // cut off, as by a crash
    throw new Error("This is not a trace: it is not made of JSON lines.");
  }
}

function addStep(requests, step, answer) {
  const milliseconds = Object.values(step.milliseconds).reduce((sum, part) => sum + part, 0);
  const start = step.at - milliseconds;
  if (!requests.has(answer.request)) requests.set(answer.request, { title: `Request ${answer.request}`, drafter: answer.drafter, start, seconds: 0, steps: [] });
  const request = requests.get(answer.request);
  request.seconds = (step.at - request.start) / 1000;
  const draft = answer.draft ?? EMPTY;
  request.steps.push({
    step: answer.step,
    milliseconds,
    tokens: answer.tokens.map((token) => ({ text: token.text ?? NO_TEXT, source: token.source })),
    draft: { ...draft, tokens: draft.tokens ?? draft.parents.map(() => NO_TEXT) },
  });
}
