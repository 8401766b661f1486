"""A server in a thread, and one in a process, for the tests of the server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2 as httpx
import uvicorn
from fastapi import FastAPI
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from outpace.llm import LLM
from outpace.models.tokenizer import Tokenizer
from outpace.targets.toy import ToyTarget

ROOT = Path(__file__).parents[2]
TOOL_TEMPLATE = """{% if tools %}{{ tools[0].function.name }} {% endif %}{% for message in messages %}{{ message.content }}
{%- if message.tool_calls %}calls {{ message.tool_calls[0].function.name }}{% endif %} {% endfor %}"""

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "add_person", "parameters": PERSON}}
NAMED = {"type": "function", "function": {"name": "add_person"}}


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Runs the application with uvicorn in a thread; gives its address."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
    assert not thread.is_alive()


@contextmanager
def asking(llm: LLM, settings: Any = None, api_key: str = "any", **options: Any) -> Iterator[Any]:
    """A client of OpenAI of a server of this LLM, in which nothing is left at the end. Options are those of the client."""
    from openai import OpenAI

    from outpace.server import create_app

    with serving(create_app(llm, settings)) as address:
        yield OpenAI(base_url=f"{address}/v1", api_key=api_key, max_retries=0, **options)
    assert is_empty(llm)


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Polls until the condition holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


def slow_down(llm: Any, seconds: float) -> None:
    """Makes every forward pass of a toy take this long."""
    forward = llm.target.forward

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return forward(*args, **options)

    llm.target.forward = slow


@cache
def _byte_target(**options: Any) -> ToyTarget:
    """Cached because its table is large; every test leaves its K/V cache empty."""
    return ToyTarget(sharpness=1.5, **options)


def byte_llm(monkeypatch: Any, drafter: str = "prompt_lookup", **options: Any) -> Any:
    """A toy whose tokens are bytes, so that it can write JSON; its chat format shows tools. Options are those of ToyTarget."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(BPE(vocab={letter: i for i, letter in enumerate([*letters, "<end>"])}, merges=[]))
    fast.add_special_tokens(["<end>"])
    fast.decoder, fast.pre_tokenizer = decoders.ByteLevel(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    target = _byte_target(vocab_size=len(letters) + 1, **{"max_len": 900, **options})
    tokenizer = Tokenizer(fast, TOOL_TEMPLATE, special={"eos_token": "<end>"})
    monkeypatch.setattr("outpace.llm.load", lambda *_: ("toy", target, tokenizer, frozenset({len(letters)}), "f32"))
    return LLM("toy", drafter)


def start_toy_server(seconds_a_pass: float, patience: float) -> tuple[subprocess.Popen[str], str]:
    """A process and its address: a toy whose forward pass takes this long, which has `patience` seconds for its shutdown."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "tests" / "tools" / "server_tools.py"), str(port), str(seconds_a_pass), str(patience)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(address + "/health").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(is_up, 30)
    return process, address


def is_empty(llm: Any) -> bool:
    """Whether no request, slot or job is left."""
    return not llm.engine.has_unfinished and not llm.target.cache and not llm._jobs


if __name__ == "__main__":  # a toy server as a process: PORT, seconds per forward pass, seconds for the shutdown
    sys.path.insert(0, str(Path(__file__).parent))
    from toy_parts import toy_parts

    import outpace.llm
    from outpace.server import create_app
    from outpace.server.listen import bind, run

    outpace.llm.load = lambda *_: toy_parts()  # type: ignore[assignment]
    toy = outpace.llm.LLM("toy")
    slow_down(toy, float(sys.argv[2]))
    run(create_app(toy), bind("127.0.0.1", int(sys.argv[1])), float(sys.argv[3]))
