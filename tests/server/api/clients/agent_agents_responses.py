"""OpenAI Agents, over the responses API, its default."""

import sys

from agent_tools import QUESTION, get_weather, report, to_fahrenheit
from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)  # it would be sent to OpenAI
model = OpenAIResponsesModel("default", AsyncOpenAI(base_url=sys.argv[1], api_key="none"))
tools = [function_tool(get_weather), function_tool(to_fahrenheit)]
agent = Agent("Assistant", instructions="You are a helpful assistant.", model=model, tools=tools)
report(Runner.run_sync(agent, QUESTION).final_output)
