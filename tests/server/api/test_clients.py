"""Agents by other people's libraries, as installed: two tools, three turns, one answer.

Each library lives in an environment of its own, below the folder that OUTPACE_CLIENTS names; what is missing there is installed (minutes,
once). Without that variable, or where the installation fails, these tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripted import scripted_llm
from server_tools import is_empty, serving

from outpace.server import create_app

HERE = Path(__file__).parent / "clients"
HOME = os.environ.get("OUTPACE_CLIENTS")
pytestmark = pytest.mark.skipif(HOME is None, reason="OUTPACE_CLIENTS names no folder for the clients' environments")
TURNS = [["get_weather", "Paris"], ["to_fahrenheit", 18]]
ANSWER = "It is 64.4 degrees Fahrenheit."


@dataclass(frozen=True)
class Client:
    """A script, the name of its environment, and the packages in there."""

    script: str
    environment: str
    packages: tuple[str, ...]

    @property
    def is_node(self) -> bool:
        return self.script.endswith(".mjs")

    def command(self, folder: Path) -> list[str]:
        """What runs the script. Scripts of Node find their packages from where they lie."""
        if self.is_node:
            return ["node", shutil.copy(HERE / self.script, folder)]
        return [str(folder / "bin" / "python"), str(HERE / self.script)]

    def install(self, folder: Path) -> None:
        """Make the environment, unless it is there."""
        done = folder / "done"
        if done.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_node:
            commands = [["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder), *self.packages]]
        else:
            commands = [[sys.executable, "-m", "venv", str(folder)], [str(folder / "bin" / "pip"), "install", "-q", *self.packages]]
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, timeout=400)
        done.touch()


NODE = ("openai", "ai", "@ai-sdk/openai-compatible", "zod")
CLIENTS = [
    Client("agent_openai.py", "openai", ("openai",)),
    Client("agent_node.mjs", "node", NODE),
    Client("agent_vercel.mjs", "node", NODE),
    Client("agent_langchain.py", "langchain", ("langchain", "langchain-openai")),
    Client("agent_pydantic_ai.py", "pydantic_ai", ("pydantic-ai-slim[openai]",)),
    Client("agent_agents.py", "agents", ("openai-agents",)),
    Client("agent_agents_responses.py", "agents", ("openai-agents",)),
    Client("agent_litellm.py", "litellm", ("litellm",)),
]
LLM_COMMAND = Client("", "llm", ("llm",))
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


def installed(client: Client) -> Path:
    """The folder of the client's environment."""
    folder = Path(HOME or "") / client.environment
    try:
        client.install(folder)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"cannot install {client.packages}: {error}")
    return folder


def output_of(command: list[str], **variables: str) -> str:
    """What a program prints that knows nothing of this checkout."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **variables}  # else litellm waits for a download
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run(client: Client, address: str) -> dict:
    """What the agent did."""
    return json.loads(output_of([*client.command(installed(client)), address]).splitlines()[-1])


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_an_agent_reaches_its_answer(address, client):
    assert run(client, address) == {"calls": TURNS, "answer": ANSWER}


def test_an_object_by_instructor(address):
    assert run(INSTRUCTOR, address)["calls"] == [["Weather", "Paris", 18]]


def test_the_command_llm(address, tmp_path):
    entry = f"- model_id: outpace\n  model_name: default\n  api_base: {address}\n"
    (tmp_path / "extra-openai-models.yaml").write_text(entry, "utf-8")
    program = str(installed(LLM_COMMAND) / "bin" / "llm")
    assert output_of([program, "-m", "outpace", "--key", "none", "hello"], LLM_USER_PATH=str(tmp_path)).strip() == ANSWER
