// The Vercel AI SDK.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, tool } from "ai";
import { z } from "zod";

const calls = [];
const outpace = createOpenAICompatible({ name: "outpace", baseURL: process.argv[2], apiKey: "none" });
const tools = {
  get_weather: tool({
    description: "Get the current weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => (calls.push(["get_weather", city]), `18 degrees Celsius in ${city}`),
  }),
  to_fahrenheit: tool({
    description: "Convert a temperature from Celsius to Fahrenheit.",
    inputSchema: z.object({ celsius: z.number() }),
    execute: async ({ celsius }) => (calls.push(["to_fahrenheit", celsius]), `${(celsius * 9) / 5 + 32} degrees Fahrenheit`),
  }),
};
const prompt = "How warm is it in Paris, in Fahrenheit? Get the weather, then convert the temperature.";
const { text } = await generateText({ model: outpace("default"), tools, prompt, stopWhen: stepCountIs(6) });
console.log(JSON.stringify({ calls, answer: text }));
