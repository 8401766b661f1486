// The drafters in plain words, in groups, one of them recommended. What is not known here keeps the server's words.

const WORDS = {
  auto: ["Automatic", "Combines drafters and drafts only as many tokens as pay off on this machine."],
  prompt_lookup: ["Copy from the text", "Looks for the last words earlier in the prompt or the answer, and drafts what followed there. Good for edits and summaries."],
  suffix: ["Repeat passages", "Every earlier place that ends like the text now votes on what comes next. Good where text repeats itself."],
  recycling: ["Runner-up tokens", "Remembers which tokens the model found likely after each token, and drafts those. Works on any text."],
  lookahead: ["Look ahead", "The model predicts several later tokens at once, and what it predicted before is drafted. Needs no repeated text."],
  blanks: ["Mask tokens", "The model fills in blanks after the last token, and drafts what it would write there."],
  medusa: ["Medusa heads", "Small trained heads predict the tokens after the next one. Trained for this model."],
  eagle: ["EAGLE head", "A small trained layer runs ahead of the model. Trained for this model."],
  draft_model: ["Draft model", "A smaller model writes ahead."],
  prediction: ["Expected answer", "Drafts from a text that the caller expects."],
  grammar: ["JSON schema", "Tokens that the schema leaves no choice about."],
  blind: ["Blind", "Drafts without looking at the text, so almost nothing is accepted: the floor to compare with."],
  none: ["Plain decoding", "No drafter: one token per step. What all drafters are compared with."],
};
const GROUPS = [
  ["From the text so far", ["prompt_lookup", "suffix"]],
  ["From the model’s own predictions", ["recycling", "lookahead", "blanks", "medusa", "eagle"]],
];
const LAST = ["To compare with", ["none", "blind"]];
const UNCHOSEN = ["prompt_lookup", "none"]; // what a server has whose operator chose nothing
const HIDDEN = ["prediction"]; // needs a text that this page does not send

/** A spec in words: "Repeat passages + Runner-up tokens"; options are left out. */
export function inWords(spec) {
  const name = (part) => WORDS[part.split(":")[0]]?.[0] ?? part;
  if (spec.startsWith("auto")) return name("auto");
  return spec.split("+").map(name).join(" + ");
}

/** What a drafter does, and how the API calls it. `drafter`: an entry of the server's list. */
export function explain({ name, description, options }) {
  const pairs = Object.entries(options ?? {}).map(([key, value]) => `${key}=${value}`);
  return `${WORDS[name]?.[1] ?? description} In the API: ${name}${pairs.length ? ` (options: ${pairs.join(", ")})` : ""}.`;
}

/** The name of the drafter to try first: the one that the server was started with on purpose, else `auto`. */
export function recommended(drafters) {
  const names = drafters.map(({ name }) => name);
  const own = drafters.find((drafter) => drafter.default)?.name ?? "none";
  if (!UNCHOSEN.includes(own)) return own;
  return ["auto", "prompt_lookup", "suffix"].find((name) => names.includes(name)) ?? own;
}

/** [[title of the group, [name, …]], …] of all drafters that can be chosen; no group is empty. */
export function grouped(drafters) {
  const left = new Set(drafters.map(({ name }) => name).filter((name) => !HIDDEN.includes(name)));
  const take = (wanted) => wanted.filter((name) => left.delete(name));
  const groups = [["Recommended", take([recommended(drafters)])], ...GROUPS.map(([title, names]) => [title, take(names)])];
  const last = [LAST[0], take(LAST[1])];
  groups.push(["Others of this server", take([...left])], last);
  return groups.filter(([, names]) => names.length);
}
