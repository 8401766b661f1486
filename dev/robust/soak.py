"""Soak test: mixed traffic, under which the memory of the server must not grow. `python dev/robust/faults.py --soak SECONDS` runs it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable

import httpx2 as httpx
from real_server import CHAT, DRAFTERS, Failed, Serving, require


def fill(server: Serving) -> None:
    """Use every block of the K/V cache once, because its memory is allocated on first write, which would look like a leak."""
    for number in range(60):
        before = server.rss()
        body = {"prompt": [[(37 * number + 11 * i) % 40_000 + 100 for i in range(4000)]], "max_tokens": 1}
        answer = httpx.post(server.url + "/v1/completions", json=body, timeout=300)
        require(answer.status_code == 200, f"a long prompt got {answer.status_code}: {answer.text[:200]}")
        if number > 3 and server.rss() - before < 1:
            print(f"      K/V cache filled by {number + 1} long prompts, RSS {server.rss():.1f} MB", flush=True)  # noqa: T201
            return
    raise Failed("the K/V cache takes more memory with every long prompt")


def soak(server: Serving, seconds: float, max_growth: float) -> str:
    """Send mixed traffic; the memory of the process must not grow between the first and the last third."""
    fill(server)
    samples: list[float] = []
    counts: dict[int | str, int] = {}
    ends_at, numbers = time.monotonic() + seconds, itertools.count()

    async def one(client: httpx.AsyncClient) -> None:
        while time.monotonic() < ends_at:
            number = next(numbers)
            kind = ("stream", "whole", "hang up", "grammar", "bad", "n")[number % 6]
            body = server.body(number, 20 + 10 * (number % 9), speculative=DRAFTERS[number // 6 % len(DRAFTERS)])
            body["messages"][0]["content"] += f" Number {number}."
            body |= {"stream": True} if kind in ("stream", "hang up") else {"n": 3} if kind == "n" else {}
            body |= {"response_format": {"type": "json_object"}} if kind == "grammar" else {"frobnicate": 1} if kind == "bad" else {}
            async with client.stream("POST", server.url + CHAT, json=body) as answer:
                text = ""
                async for piece in answer.aiter_text():
                    text += piece
                    if kind == "hang up":
                        break
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            if kind == "grammar" and "unsupported_field" in text:
                continue  # the server has no structured output
            require(answer.status_code == (400 if kind == "bad" else 200), f"{kind}: HTTP {answer.status_code}: {text[:300]}")
            require('"error"' not in text or kind == "bad", f"{kind}: {text[-300:]}")

    async def sampler() -> None:
        interval = min(10.0, seconds / 12)
        while time.monotonic() < ends_at:
            await asyncio.sleep(interval)
            samples.append(server.rss())
            print(f"      {len(samples) * interval:5.0f} s  RSS {samples[-1]:8.1f} MB  answers {sum(counts.values())}", flush=True)  # noqa: T201

    async def all_of_them() -> None:
        async with httpx.AsyncClient(timeout=300) as client:
            tasks: list[Awaitable[None]] = [one(client) for _ in range(8)]
            await asyncio.gather(sampler(), *tasks)

    asyncio.run(all_of_them())
    third = max(1, len(samples) // 3)
    first, last = sum(samples[:third]) / third, sum(samples[-third:]) / third
    text = f"RSS {first:.1f} MB in the first third, {last:.1f} MB in the last: growth {last - first:+.1f} MB over {seconds:g} s, {counts}"
    require(last - first <= max_growth, f"{text}; at most {max_growth:g} MB are allowed")
    return text
