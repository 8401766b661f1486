// The request of the form as code: for curl, and for the `openai` package.

/** `wish`: what to ask; `url`: the address of the API, ending in /v1; `hasKey`: whether the server asks for a key. */
export function asCurl(body, url, hasKey) {
  const lines = [`curl ${url}/chat/completions`, `-H 'Content-Type: application/json'`];
  if (hasKey) lines.push(`-H "Authorization: Bearer $OUTPACE_API_KEY"`);
  lines.push(`-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

export function asPython(body, url, hasKey) {
  const { speculative, ...fields } = body;
  const lines = Object.entries(fields).map(([name, value]) => `    ${name}=${literal(value)},`);
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(url)}, api_key=${hasKey ? 'os.environ["OUTPACE_API_KEY"]' : '"none"'})`,
    "answer = client.chat.completions.create(",
    ...lines,
    `    extra_body={"speculative": ${literal(speculative)}},`,
    ")",
    "print(answer.choices[0].message.content)",
  ].join("\n");
}

/** A JSON value as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (value === true || value === false) return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, item]) => `${literal(key)}: ${literal(item)}`).join(", ")}}`;
  return JSON.stringify(value);
}
