"""pydantic-ai."""

import sys

from agent_tools import QUESTION, get_weather, report, to_fahrenheit
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel("default", provider=OpenAIProvider(base_url=sys.argv[1], api_key="none"))
report(Agent(model, tools=[get_weather, to_fahrenheit]).run_sync(QUESTION).output)
