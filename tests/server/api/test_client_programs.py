"""Programs by other people that speak OpenAI's API, run as installed against the server (see `client_tools`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from client_tools import HERE, Client, installed, needs_clients, output_of
from scripted import scripted_llm
from server_tools import is_empty, serving

from outpace.server import create_app

pytestmark = needs_clients
LLM_COMMAND = Client("", "llm", ("llm",))
AIDER = Client("", "aider", ("aider-chat",))
CONTINUE = Client("", "continue", ("@continuedev/cli",), is_node=True)
OPEN_WEBUI = Client("open_webui_chat.py", "open_webui", ("torch==2.13.0", "open-webui"))
ANSWER = "It is 64.4 degrees Fahrenheit."
Serve = Callable[[Callable[[str], str]], AbstractContextManager[str]]


@pytest.fixture
def serve(monkeypatch) -> Serve:
    """Starts a server whose model follows a script; gives the address of its API."""

    @contextmanager
    def start(script: Callable[[str], str]) -> Iterator[str]:
        llm = scripted_llm(monkeypatch, script)
        with serving(create_app(llm)) as found:
            yield f"{found}/v1"
        assert is_empty(llm)

    return start


def test_the_command_llm(serve, tmp_path):
    with serve(lambda _: ANSWER) as address:
        entry = f"- model_id: outpace\n  model_name: default\n  api_base: {address}\n"
        (tmp_path / "extra-openai-models.yaml").write_text(entry, "utf-8")
        program = str(installed(LLM_COMMAND) / "bin" / "llm")
        assert output_of([program, "-m", "outpace", "--key", "none", "hello"], LLM_USER_PATH=str(tmp_path)).strip() == ANSWER


def test_aider_edits_a_file(serve, tmp_path):
    file = tmp_path / "greet.py"
    file.write_text('def greet(name):\n    return "Hello " + name\n', "utf-8")
    edited = 'def greet(name):\n    return "Hey " + name\n'

    def script(prompt: str) -> str:
        assert "greet.py" in prompt
        assert "Say Hey" in prompt
        return f"greet.py\n```python\n{edited}```\n"

    with serve(script) as address:
        output_of(aider(address, "whole", "Say Hey instead of Hello."), tmp_path, HOME=str(tmp_path))
    assert file.read_text("utf-8") == edited


def aider(address: str, edit_format: str, message: str) -> list[str]:
    """The command of docs/server/clients.md, without questions and without looking for a newer aider."""
    program = str(installed(AIDER) / "bin" / "aider")
    where = ["--model", "openai/default", "--openai-api-base", address, "--openai-api-key", "none", "--edit-format", edit_format]
    quiet = ["--no-git", "--yes-always", "--no-check-update", "--no-analytics", "--no-show-model-warnings", "--no-pretty"]
    return [program, *where, *quiet, "--message", message, "greet.py"]


def test_continue_reads_a_file(serve, tmp_path):
    """Continue's agent in the terminal, headless: one call of its own tool, then the answer."""
    (tmp_path / "secret.txt").write_text("the number is 4711\n", "utf-8")
    config = tmp_path / "config.yaml"
    path = str(tmp_path / "secret.txt")

    def script(prompt: str) -> str:
        if '"role": "tool"' in prompt:
            assert "4711" in prompt
            return "The number is 4711."
        call = {"name": "Read", "arguments": {"filepath": path}}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>" if prompt.startswith("tools:") else ANSWER

    with serve(script) as address:
        config.write_text(CONFIG.format(address=address), "utf-8")
        program = str(installed(CONTINUE) / "node_modules" / ".bin" / "cn")
        shown = output_of([program, "-p", "--config", str(config), "Which number is in secret.txt?"], tmp_path, HOME=str(tmp_path))
    assert shown.strip().endswith("The number is 4711.")


CONFIG = """name: local
version: 1.0.0
schema: v1
models:
  - name: outpace
    provider: openai
    model: default
    apiBase: {address}
    apiKey: none
    roles: [chat, edit, apply]
    capabilities: [tool_use]
"""


def test_open_webui_chats(serve, tmp_path):
    with serve(lambda _: ANSWER) as address:
        folder = installed(OPEN_WEBUI)
        shown = output_of([str(folder / "bin" / "python"), str(HERE / OPEN_WEBUI.script), address, str(tmp_path)], tmp_path)
    found = json.loads(shown.splitlines()[-1])
    assert found == {"models": ["scripted"], "whole": ANSWER, "streamed": ANSWER}
