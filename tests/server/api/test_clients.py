"""Agents by other people's libraries, as installed: two tools, three turns, one answer.

Each library lives in an environment of its own, below the folder that OUTPACE_CLIENTS names; what is missing there is installed (minutes,
once). Without that variable, or where the installation fails, these tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from client_tools import Client, installed, needs_clients, output_of
from scripted import scripted_llm
from server_tools import is_empty, serving

from outpace.server import create_app

pytestmark = needs_clients
TURNS = [["get_weather", "Paris"], ["to_fahrenheit", 18]]
ANSWER = "It is 64.4 degrees Fahrenheit."


NODE = ("openai", "ai", "@ai-sdk/openai-compatible", "zod")
CLIENTS = [
    Client("agent_openai.py", "openai", ("openai",)),
    Client("agent_node.mjs", "node", NODE, is_node=True),
    Client("agent_vercel.mjs", "node", NODE, is_node=True),
    Client("agent_langchain.py", "langchain", ("langchain", "langchain-openai")),
    Client("agent_pydantic_ai.py", "pydantic_ai", ("pydantic-ai-slim[openai]",)),
    Client("agent_agents.py", "agents", ("openai-agents",)),
    Client("agent_agents_responses.py", "agents", ("openai-agents",)),
    Client("agent_litellm.py", "litellm", ("litellm",)),
]
INSTRUCTOR = Client("agent_instructor.py", "instructor", ("instructor",))


def call(name: str, **arguments) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def script(prompt: str) -> str:
    """The agent's part: it decides by the number of results that it has."""
    if not prompt.startswith("tools:"):
        return ANSWER
    if '"name": "Weather"' in prompt:
        return call("Weather", city="Paris", celsius=18)
    turns = [call("get_weather", city="Paris"), call("to_fahrenheit", celsius=18), ANSWER]
    return turns[min(prompt.count('"role": "tool"'), 2)]


@pytest.fixture
def address(monkeypatch) -> Iterator[str]:
    llm = scripted_llm(monkeypatch, script)
    with serving(create_app(llm)) as found:
        yield f"{found}/v1"
    assert is_empty(llm)


def run(client: Client, address: str) -> dict:
    """What the agent did."""
    return json.loads(output_of([*client.command(installed(client)), address]).splitlines()[-1])


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_an_agent_reaches_its_answer(address, client):
    assert run(client, address) == {"calls": TURNS, "answer": ANSWER}


def test_an_object_by_instructor(address):
    assert run(INSTRUCTOR, address)["calls"] == [["Weather", "Paris", 18]]
