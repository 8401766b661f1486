"""A real `outpace serve` for test scripts: starts it on a free port and checks that all its resources are released."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

CHAT = "/v1/chat/completions"
DRAFTERS = ["none", "auto", "suffix", "recycling", "prompt_lookup+recycling", "lookahead"]
QUESTIONS = ["Tell me a story about a lighthouse.", "Explain how rain forms.", "List ten animals.", "Write a short poem about snow."]
GAUGES = ("outpace:num_requests_running", "outpace:num_requests_waiting", "outpace:kv_cache_usage_perc")
SETTLE = 20  # seconds within which all resources must be released


class Failed(Exception):
    """A check of the campaign failed."""


def require(condition: bool, text: str) -> None:
    """Raise Failed with this text unless the condition holds."""
    if not condition:
        raise Failed(text)


class Serving:
    """A running `outpace serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path):
        self.process, self.url, self.log = process, url, log
        self.port = int(url.rpartition(":")[2])

    def body(self, number: int, max_tokens: int = 200, **fields: Any) -> dict[str, Any]:
        """A chat request."""
        messages = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
        return {"messages": messages, "max_tokens": max_tokens, "temperature": 0.8, "seed": number, **fields}

    def gauges(self) -> dict[str, float]:
        """Running requests, waiting requests and K/V in use, from /metrics."""
        text = httpx.get(self.url + "/metrics", timeout=30).text
        return {name: float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]) for name in GAUGES}  # type: ignore[index]

    def settle(self) -> float:
        """Wait until no request runs or waits, no K/V is in use and /health is fine; returns the seconds it took."""
        started = time.monotonic()
        while True:
            seen = self.gauges()
            if not any(seen.values()):
                break
            require(time.monotonic() - started < SETTLE, f"after {SETTLE} s still {seen}")
            time.sleep(0.05)
        require(httpx.get(self.url + "/health", timeout=30).status_code == 200, "/health is not fine")
        return time.monotonic() - started

    def rss(self) -> float:
        """Resident memory of the process in megabytes."""
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024  # type: ignore[index]


@contextmanager
def serving(*options: str) -> Iterator[Serving]:
    """Run a server on a free port; it is killed at the end if it still runs."""
    log = Path(tempfile.mkstemp(prefix="outpace-faults-", suffix=".log")[1])
    command = [sys.executable, "-m", "outpace", "serve", "--port", "0", *options]
    with log.open("w") as out, subprocess.Popen(command, stderr=out, stdout=out, text=True) as process:
        try:
            end = time.monotonic() + 300
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
                require(process.poll() is None and time.monotonic() < end, f"the server did not start: {log.read_text()}")
                time.sleep(0.1)
            started = Serving(process, found[0], log)
            while True:
                try:
                    httpx.get(started.url + "/health", timeout=30)
                    break
                except httpx.TransportError:
                    require(process.poll() is None and time.monotonic() < end, f"the server did not start: {log.read_text()}")
                    time.sleep(0.1)
            yield started
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    log.unlink()
