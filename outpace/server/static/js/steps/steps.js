// One step of the engine, read from a chunk's `trace`: which tokens came from where, which draft tokens were rejected.

/**
 * What a trace means.
 * tokens: [{text, source, kind}], kind one of
 *   guess      a drafter proposed it
 *   corrected  the model's own token where it rejected the draft tokens
 *   bonus      the model's own token after draft tokens that were all accepted
 *   again      the model's own token of the step before, checked again
 *   plain      the model's own token of a step without a draft
 * nodes: [{text, parent, confidence, source, isAgain, state}], state one of accepted, held (right, but unconfirmed in this step),
 *   rejected. isAgain: an unconfirmed token of the step before, which leads this draft and is verified again.
 */
export function readStep(trace) {
  const draft = trace.draft ?? { tokens: [], parents: [], confidences: [], sources: [], accepted: [] };
  const path = draft.accepted;
  const used = new Set(path.slice(0, trace.tokens.length));
  const held = new Set(path.slice(trace.tokens.length));
  const givenBy = new Map(path.map((node, i) => [node, trace.tokens[i]?.source])); // of held tokens only the text knows who proposed them
  const nodes = draft.tokens.map((text, i) => ({
    text,
    parent: draft.parents[i],
    confidence: draft.confidences?.[i] ?? null,
    source: draft.sources?.[i] || givenBy.get(i) || "",
    isAgain: !draft.sources?.[i],
    state: used.has(i) ? "accepted" : held.has(i) ? "held" : "rejected",
  }));
  const end = path.length ? path[path.length - 1] : -1;
  const own = !nodes.length ? "plain" : nodes.some((node) => node.parent === end) ? "corrected" : "bonus";
  const tokens = trace.tokens.map(({ text, source }, i) => ({ text, source, kind: source ? "guess" : i < path.length ? "again" : own }));
  return { number: trace.step, milliseconds: trace.milliseconds, tokens, nodes, path };
}

/** Paths from the root to every leaf with a rejected draft token: [[node, …], …]. */
export function rejectedBranches(step) {
  const isParent = new Set(step.nodes.map((node) => node.parent));
  const branches = [];
  step.nodes.forEach((node, i) => {
    if (isParent.has(i) || node.state !== "rejected") return;
    const branch = [];
    for (let at = i; at >= 0; at = step.nodes[at].parent) branch.unshift(step.nodes[at]);
    branches.push(branch);
  });
  return branches;
}

/** The step in one sentence. */
export function describe(step) {
  const guesses = step.nodes.filter((node) => !node.isAgain).length;
  const kept = step.nodes.filter((node) => node.state === "accepted");
  const again = kept.filter((node) => node.isAgain).length;
  const own = step.tokens.find((token) => ["corrected", "bonus", "plain"].includes(token.kind));
  const held = step.nodes.filter((node) => node.state === "held").length;
  const parts = [guesses ? `${count(guesses, "draft token", "draft tokens")}, ${kept.length - again} accepted` : "no draft"];
  if (again) parts.push(`${again} unconfirmed from the step before`);
  if (own) parts.push(`${{ corrected: "corrected to", bonus: "bonus token", plain: "the model’s own" }[own.kind]} “${visible(own.text)}”`);
  if (held) parts.push(`${held} more right, unconfirmed until the next step`);
  return `${parts.join("; ")}. ${count(step.tokens.length, "token", "tokens")} in ${step.milliseconds.toFixed(1)} ms.`;
}

/** A token's text with its blanks made visible. */
export function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
}

export function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}
