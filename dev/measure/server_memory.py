"""Memory of a server over many requests, some of which are hung up.

usage: python dev/measure/server_memory.py [requests] [hang-ups] [drafter] [options of `outpace serve` ...]

Starts `outpace serve` with the default model; 16 clients send prompts of different lengths at temperature 0.8. Prints the resident memory
over time, and how much of it is K/V, which is bounded when the server starts. The last line is one JSON document: memory (MB) before, after
the first minute and at the end, and the growth since the first minute, in all and beyond K/V.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import typer

from outpace.progress import note

WORDS = ("river", "mountain", "city", "boat", "winter", "bridge", "engine", "letter", "garden", "music", "paper", "stone", "light")
NUM_CLIENTS = 16


@dataclass(frozen=True)
class Sample:
    """Memory in MB after `num_done` requests; `kv` is the K/V in it."""

    seconds: float
    num_done: int
    resident: float
    kv: float

    @property
    def rest(self) -> float:
        return self.resident - self.kv


def resident(process: int) -> float:
    """Megabytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 1e6


def gauges(text: str) -> dict[str, float]:
    """The metrics of the K/V cache, by name."""
    return {name: float(value) for name, value in re.findall(r"^outpace:(kv_cache_\w+|num_preemptions_total) (\S+)", text, re.M)}


async def load(url: str, process: int, num_requests: int, num_hang_ups: int) -> list[Sample]:
    """Samples every ten requests; every fifth is printed."""
    dice, started, seen = random.Random(1), time.perf_counter(), []
    plans = [False] * num_requests + [True] * num_hang_ups
    dice.shuffle(plans)
    left, done = iter(enumerate(plans)), 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal done
        for number, hangs_up in left:
            text = " ".join(dice.choice(WORDS) for _ in range(dice.randrange(5, 200)))
            body = {"messages": [{"role": "user", "content": f"Say something about: {text}"}], "stream": True}
            body |= {"max_tokens": dice.randrange(5, 40), "temperature": 0.8, "seed": number}
            async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                async for _ in response.aiter_lines():
                    if hangs_up:
                        break
            done += 1
            if done % 10 == 0:
                kv = gauges((await http.get(f"{url}/metrics")).text)["kv_cache_bytes"] / 1e6
                seen.append(sample := Sample(time.perf_counter() - started, done, resident(process), kv))
                if len(seen) % 5 == 1:
                    note(f"{sample.seconds:6.0f} s {sample.num_done:5} requests {sample.resident:7.0f} MB, K/V {sample.kv:5.0f} MB")

    async with httpx.AsyncClient(timeout=600, trust_env=False) as http:
        await asyncio.gather(*(client(http) for _ in range(NUM_CLIENTS)))
    return seen


def report(before: float, seen: list[Sample]) -> dict[str, float]:
    """The memory and its growth."""
    minute, end = next((sample for sample in seen if sample.seconds >= 60), seen[-1]), seen[-1]
    growth = {"growth": end.resident - minute.resident, "growth_beyond_kv": end.rest - minute.rest}
    return {"before": before, "first_minute": minute.resident, "end": end.resident, "seconds": end.seconds, **growth}


def main(num_requests: int = 500, num_hang_ups: int = 200, drafter: str = "auto", *options: str) -> None:
    """Start a server, put it under load, and print its memory."""
    command = [sys.executable, "-m", "outpace", "serve", "--port", "0", "--drafter", drafter, *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.:]+", line)))  # type: ignore[union-attr]
        before = resident(server.pid)
        seen = asyncio.run(load(url, server.pid, num_requests, num_hang_ups))
        typer.echo(json.dumps({**report(before, seen), **gauges(httpx.get(f"{url}/metrics", trust_env=False).text)}))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(*(int(arg) for arg in sys.argv[1:3]), *sys.argv[3:])
