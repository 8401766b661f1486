"""OpenAI Agents, over chat completions."""

import sys

from agent_tools import QUESTION, get_weather, report, to_fahrenheit
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)  # it would be sent to OpenAI
model = OpenAIChatCompletionsModel("default", AsyncOpenAI(base_url=sys.argv[1], api_key="none"))
agent = Agent(
    "Assistant", instructions="You are a helpful assistant.", model=model, tools=[function_tool(get_weather), function_tool(to_fahrenheit)]
)
report(Runner.run_sync(agent, QUESTION).final_output)
