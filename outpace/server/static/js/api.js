// The server, as three calls, and every failure in plain words.
import { events } from "./sse.js";

/** A failure the reader can understand. `status` is the HTTP status, 0 when there was no answer. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const PATIENCE = 10_000; // milliseconds that the lists may take; a connection that hangs is given up and tried again

/** Names of the models the server runs. */
export async function models(key) {
  return (await (await call("v1/models", key, { signal: AbortSignal.timeout(PATIENCE) })).json()).data.map((model) => model.id);
}

/** The drafters: [{name, description, options}]. */
export async function drafters(key) {
  return (await call("v1/outpace/drafters", key, { signal: AbortSignal.timeout(PATIENCE) })).json();
}

/** The body of a request for a whole answer. `seed`, `system`, `schema` and `tools` may be null. */
export function bodyOf({ model, prompt, drafter, length, temperature, seed, system, schema, tools }) {
  const body = { model, messages: [{ role: "user", content: prompt }], max_completion_tokens: length, temperature, speculative: drafter };
  if (system) body.messages.unshift({ role: "system", content: system });
  if (seed !== null) body.seed = seed;
  if (tools) body.tools = tools;
  if (schema) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  return body;
}

/** Asks for one answer and yields its chunks as they come. `signal` stops it. Throws ServerError, or AbortError when stopped. */
export async function* answer(wish, key, signal) {
  const streamed = { stream: true, stream_options: { include_usage: true }, speculative: { method: wish.drafter, trace: true } };
  const body = { ...bodyOf(wish), ...streamed };
  const response = await call("v1/chat/completions", key, { method: "POST", body: JSON.stringify(body), signal });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(`The server failed: ${chunk.error.message}`, 500);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new ServerError("The server sent something that is not an answer.");
  }
  throw new ServerError("The connection broke before the answer was complete. Your prompt is kept; run it again.");
}

async function call(path, key, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (/[^\x21-\x7e]/.test(key)) throw new ServerError("A key has only plain letters, digits and signs, without spaces.", 401);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const isHuge = (options.body?.length ?? 0) > 1e6;
    throw new ServerError(
      isHuge
        ? "The server hung up. The prompt is very long; try a shorter one."
        : "The server cannot be reached. Is it still running? Your prompt is kept.",
    );
  }
  if (!response.ok) throw await explain(response);
  return response;
}

async function explain(response) {
  const said = await response.json().then((body) => body.error?.message ?? "", () => "");
  const wait = response.headers.get("Retry-After");
  const words = {
    401: "This server needs a key.",
    403: said,
    413: `The prompt is too long for this server. ${said}`,
    429: `The server is busy. Try again ${wait ? `in ${wait} s` : "in a moment"}.`,
    503: `The server is not ready. ${said}`,
  };
  const otherwise = response.status < 500 ? `The server refused: ${said || response.statusText}` : `The server failed: ${said || response.status}`;
  return new ServerError((words[response.status] ?? otherwise).trim(), response.status);
}
