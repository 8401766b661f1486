"""Runs inside a peer's environment: `python peer_worker.py FILE` answers JSON lines on stdin with JSON lines on stdout.

The first line has the arguments of the file's `load`, each further one a prompt: {"prompt": [...], "max_tokens": N}. Imports nothing
of outpace, which is not installed there.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


def main(file: str) -> None:
    """Load the peer, then answer prompts until stdin closes. An exception becomes {"error": text}; one in loading ends the process."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        about, ask = runpy.run_path(file)["load"](**json.loads(sys.stdin.readline()))
    except Exception as error:
        _write(channel, {"error": f"{type(error).__name__}: {error}"})
        return
    _write(channel, about)
    for line in sys.stdin:
        _write(channel, _answer(ask, json.loads(line)))


def _answer(ask: Callable[..., dict[str, Any]], message: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        answer = ask(message["prompt"], message["max_tokens"])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {**answer, "total_seconds": time.perf_counter() - started}


def _write(channel: TextIO, message: dict[str, Any]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


if __name__ == "__main__":
    main(sys.argv[1])
