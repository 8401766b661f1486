"""Memory of a server over many requests, some of which are hung up.

usage: python dev/measure/server_memory.py [requests] [hang-ups] [drafter]

Starts `outpace serve` with the default model; 16 clients send prompts of different lengths at temperature 0.8. Prints the resident memory
after the first minute and at the end, with the metrics of the K/V cache; the last line is one JSON document.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import typer

from outpace.progress import note

WORDS = ("river", "mountain", "city", "boat", "winter", "bridge", "engine", "letter", "garden", "music", "paper", "stone", "light")
NUM_CLIENTS = 16


def resident(process: int) -> float:
    """Megabytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 1e6


async def load(url: str, process: int, num_requests: int, num_hang_ups: int) -> list[tuple[float, int, float]]:
    """(seconds, requests done, megabytes) over time."""
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
                seen.append((time.perf_counter() - started, done, resident(process)))

    async with httpx.AsyncClient(timeout=600, trust_env=False) as http:
        await asyncio.gather(*(client(http) for _ in range(NUM_CLIENTS)))
    return seen


def main(num_requests: int = 500, num_hang_ups: int = 200, drafter: str = "auto") -> None:
    """Start a server, put it under load, and print its memory (MB): before, after the first minute, and at the end."""
    command = [sys.executable, "-m", "outpace", "serve", "--port", "0", "--drafter", drafter]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.:]+", line)))  # type: ignore[union-attr]
        before = resident(server.pid)
        seen = asyncio.run(load(url, server.pid, num_requests, num_hang_ups))
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
        kv = {name: float(value) for name, value in re.findall(r"^outpace:(kv_cache_\w+|num_preemptions_total) (\S+)", metrics, re.M)}
        minute = next((size for seconds, _, size in seen if seconds >= 60), seen[-1][2])
        for seconds, done, size in seen[:: max(1, len(seen) // 12)]:
            note(f"{seconds:6.0f} s {done:5} requests {size:7.0f} MB")
        typer.echo(json.dumps({"before": before, "first_minute": minute, "end": seen[-1][2], "seconds": seen[-1][0], **kv}))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(*(int(arg) for arg in sys.argv[1:3]), *sys.argv[3:4])
