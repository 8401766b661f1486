"""LangChain."""

import sys

from agent_tools import QUESTION, get_weather, report, to_fahrenheit
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="default", base_url=sys.argv[1], api_key="none")
agent = create_agent(model, [get_weather, to_fahrenheit], system_prompt="You are a helpful assistant.")
found = agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})
report(found["messages"][-1].content)
