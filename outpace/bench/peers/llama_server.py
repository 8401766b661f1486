"""llama.cpp as built or installed on this machine: the program `llama-server`, or the one that LLAMA_SERVER names. Reads .gguf files.

The package of the peer `llama.cpp` runs on any x86 processor with AVX2; a build on the machine itself uses all that its processor has.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any, TextIO
from urllib.error import URLError
from urllib.request import Request, urlopen

PACKAGES: tuple[str, ...] = ()
MODEL = "gguf"
WAYS = ("plain", "ngram-simple", "ngram-mod", "ngram-cache")
TYPES = {"plain": "none", "draft": "draft-simple"}  # of `--spec-type`; the others have the name of the way
CONTEXT = 4096
START_SECONDS = 300.0


def load(
    model: str, draft_model: str | None, way: str, options: dict[str, str], threads: int
) -> tuple[dict[str, Any], Callable[[list[int], int], dict[str, Any]]]:
    """Starts the server; it ends with this process. `options` belong to the way: `size_n=3` is `--spec-ngram-simple-size-n 3`."""
    port, log = _free_port(), tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - as long as the process
    command = [program(), "--model", model, "--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(CONTEXT), "--parallel", "1"]
    command += ["--threads", str(threads), "--threads-batch", str(threads), "--n-gpu-layers", "0"]
    command += ["--spec-type", TYPES.get(way, way), *(["--spec-draft-model", draft_model] if draft_model else [])]
    for key, value in options.items():
        command += [f"--spec-{way}-{key.replace('_', '-')}", value]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    atexit.register(process.kill)
    url = f"http://127.0.0.1:{port}"
    _wait(process, url, log)

    def ask(prompt: list[int], max_tokens: int) -> dict[str, Any]:
        answer = _get(
            f"{url}/completion", {"prompt": prompt, "n_predict": max_tokens, "temperature": 0.0, "top_k": 1, "cache_prompt": False}
        )
        timings = answer["timings"]
        # its clock starts at the first token, which it counts
        return {"text": answer["content"], "num_decoded": timings["predicted_n"] - 1, "decode_seconds": timings["predicted_ms"] / 1e3}

    return {"version": f"llama.cpp {_get(f'{url}/props').get('build_info', '')}", "settings": {**options, "system": _system()}}, ask


def program() -> str:
    """The program to run. Raises RuntimeError if there is none."""
    named = os.environ.get("LLAMA_SERVER")
    found = shutil.which(named or "llama-server")
    if found is None:
        raise RuntimeError(
            f"LLAMA_SERVER={named} is no program" if named else "no program llama-server; install it, or name it in LLAMA_SERVER"
        )
    return found


def _wait(process: subprocess.Popen[bytes], url: str, log: TextIO) -> None:
    """Until the server has loaded the model. Raises RuntimeError with its last line if it ends."""
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS:
        if process.poll() is not None:
            raise RuntimeError(_lines(log)[-1] if _lines(log) else f"llama-server ended with exit code {process.returncode}")
        try:
            _get(f"{url}/health")
            return
        except URLError:
            time.sleep(0.1)
    raise RuntimeError(f"llama-server has not loaded the model in {START_SECONDS:.0f} seconds")


def _get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"})) as response:
        found: dict[str, Any] = json.load(response)
        return found


def _system() -> str:
    """The processor's features that the program uses: it logs them even if the model cannot be read."""
    command = [program(), "--verbosity", "4", "--model", os.devnull, "--port", str(_free_port())]
    log = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=60)
    lines = (log.stdout + log.stderr).splitlines()
    return next((line.partition("system_info:")[2].strip() for line in lines if "system_info:" in line), "")


def _lines(log: TextIO) -> list[str]:
    log.seek(0)
    return [line.strip() for line in log.read().splitlines() if line.strip()]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
