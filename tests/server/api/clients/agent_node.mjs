// OpenAI's client for Node: the loop by hand, streamed.
import OpenAI from "openai";

const calls = [];
const functions = {
  get_weather: ({ city }) => (calls.push(["get_weather", city]), `18 degrees Celsius in ${city}`),
  to_fahrenheit: ({ celsius }) => (calls.push(["to_fahrenheit", celsius]), `${(celsius * 9) / 5 + 32} degrees Fahrenheit`),
};
const described = (name, description, argument, type) => ({
  type: "function",
  function: { name, description, parameters: { type: "object", properties: { [argument]: { type } }, required: [argument] } },
});
const tools = [
  described("get_weather", "Get the current weather in a city.", "city", "string"),
  described("to_fahrenheit", "Convert a temperature from Celsius to Fahrenheit.", "celsius", "number"),
];
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const messages = [{ role: "user", content: "How warm is it in Paris, in Fahrenheit? Get the weather, then convert the temperature." }];
let message;
for (let turn = 0; turn < 6; turn++) {
  const answer = await client.chat.completions.stream({ model: "default", messages, tools }).finalChatCompletion();
  message = answer.choices[0].message;
  messages.push(message);
  for (const call of message.tool_calls ?? []) {
    messages.push({ role: "tool", tool_call_id: call.id, content: functions[call.function.name](JSON.parse(call.function.arguments)) });
  }
  if (!message.tool_calls?.length) break;
}
console.log(JSON.stringify({ calls, answer: message.content }));
