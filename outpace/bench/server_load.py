"""A server under load: N clients at once, with every answer compared to the one that a single client got before.

The clients form a closed loop: each sends a prompt, reads the stream to its end and sends the next prompt until the time is up. Requests
that still run then are also read to their end, but only the share of their tokens within the time counts for tokens/s.

Some drafters learn from answers, so a repeated prompt is easier to draft for than a user's prompt. A server started by the benchmark
therefore gets a new API key, which has an empty answer cache, for the single client and for each turn; `num_repeated` counts prompts that
were sent twice within a turn. The prefix cache is shared by all keys; `num_cached_prompt_tokens` counts the tokens it saved.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import httpx2 as httpx
import numpy as np

import outpace
from outpace.bench.runner import machine
from outpace.bench.workloads import Workload, rotation
from outpace.errors import OutpaceError
from outpace.progress import countdown, note, track

TIME_LIMIT = 900.0  # seconds after which an answer counts as an error
PAUSE = 0.2  # seconds a client waits after an error, so that it does not flood a server that refuses requests


@dataclass(frozen=True)
class Place:
    """A server: its URL without `/v1`. `speculative` is sent with every request; None leaves the choice to the server.

    `keys`: API keys for the single client and for each turn after it; they are reused from the start if there are too few.
    """

    url: str
    speculative: str | None = None
    keys: tuple[str, ...] = ()

    def headers(self, turn: int) -> dict[str, str]:
        """HTTP headers with the key of this turn; turn 0 is the single client."""
        return {"Authorization": f"Bearer {self.keys[turn % len(self.keys)]}"} if self.keys else {}


@dataclass
class Answer:
    """One request as seen by its client. Times are from `time.perf_counter`; `first_at` is that of the first token.

    `error` is a refusal, a broken connection or a failure reported in the stream. An answer without error may still be lost: its stream
    ended before the answer was complete.
    """

    started_at: float
    text: str = ""
    finish_reason: str | None = None
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    first_at: float = 0.0
    ended_at: float = 0.0
    is_ended: bool = False
    error: str | None = None

    @property
    def is_lost(self) -> bool:
        return self.error is None and not (self.is_ended and self.finish_reason and self.num_tokens)

    @property
    def is_whole(self) -> bool:
        return self.error is None and not self.is_lost

    @property
    def content(self) -> tuple[str, str | None, int]:
        """The parts that are equal in two answers to the same prompt and seed."""
        return self.text, self.finish_reason, self.num_tokens

    def add(self, data: str) -> None:
        """Add one event of the stream. Raises ValueError if it is not JSON."""
        if data == "[DONE]":
            self.is_ended = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self.error = str(chunk["error"].get("message"))
            return
        for choice in chunk["choices"]:
            self.first_at = self.first_at or time.perf_counter()
            self.text += choice["delta"].get("content") or ""
            self.finish_reason = choice["finish_reason"] or self.finish_reason
        if usage := chunk.get("usage"):
            self.num_tokens, self.num_prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
            self.num_cached_prompt_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


@dataclass(frozen=True)
class LoadResult:
    """One drafter at one number of clients. Milliseconds are as seen by the clients; `per_token_ms` excludes the first token.

    `num_mixed_up` counts complete answers that differ from those to the single client; `speedup` is total tokens/s relative to the first
    drafter.
    """

    drafter: str
    num_clients: int
    seconds: float
    num_requests: int
    num_errors: int
    num_lost: int
    num_mixed_up: int
    num_repeated: int
    num_tokens: int
    num_prompt_tokens: int
    num_cached_prompt_tokens: int
    tokens_per_second: float
    speedup: float
    first_token_ms: dict[str, float]
    per_token_ms: dict[str, float]
    request_ms: dict[str, float]
    errors: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether there were requests, and no answer was an error, lost or mixed up."""
        return self.num_requests > 0 and not (self.num_errors or self.num_lost or self.num_mixed_up)


@dataclass
class _Cell:
    """Results of a drafter at a level over all repeats: (index of the prompt, answer), and the tokens produced within the time."""

    answers: list[tuple[int, Answer]] = field(default_factory=list)
    seconds: float = 0.0
    tokens_in_time: float = 0.0
    num_repeated: int = 0


async def ask(client: httpx.AsyncClient, place: Place, workload: Workload, fields: Mapping[str, Any]) -> Answer:
    """Send one prompt and read the stream to its end; failures are stored in the answer."""
    body = {"messages": workload.messages, "stream": True, "stream_options": {"include_usage": True}, **fields}
    if place.speculative is not None:
        body["speculative"] = place.speculative
    answer = Answer(time.perf_counter())
    try:
        async with asyncio.timeout(TIME_LIMIT), client.stream("POST", f"{place.url}/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                answer.error = f"HTTP {response.status_code}: {(await response.aread()).decode('utf-8', 'replace')[:300]}"
            else:
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        answer.add(line.removeprefix("data: "))
    except (httpx.HTTPError, TimeoutError, ValueError, LookupError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended_at = time.perf_counter()
    return answer


def _client(place: Place, turn: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(headers=place.headers(turn), timeout=TIME_LIMIT, limits=httpx.Limits(max_connections=None), trust_env=False)


def run(
    places: Mapping[str, Place],
    workloads: Sequence[Workload],
    levels: Sequence[int],
    seconds: float,
    fields: Mapping[str, Any],
    repeats: int = 1,
) -> dict[str, Any]:
    """Load every server (drafter -> server) at every level, with the drafters taking turns; returns one JSON-ready document.

    `fields` are sent with every request: max_tokens, temperature, seed. Raises OutpaceError if a server does not answer a single client.
    """
    model = asyncio.run(_model(next(iter(places.values()))))
    prompts, single = _references(places, rotation(workloads), fields)
    cells = {(level, name): _Cell() for level in levels for name in places}
    turns = [(level, name) for level in levels for _ in range(repeats) for name in places]
    for number, (level, name) in enumerate(turns, 1):
        label = f"{name}, {level} client{'s' * (level > 1)} ({number} of {len(turns)})"
        with countdown(seconds) as show:
            cell = cells[level, name]
            asyncio.run(_load(cell, places[name], prompts, level, seconds, fields, number, partial(show, label)))
    baseline = next(iter(places))
    results = [_summarise(name, level, cells[level, name], cells[level, baseline], single[name]) for level in levels for name in places]
    about = {"outpace": outpace.__version__, "num_prompts": len(prompts), "seconds": seconds, "repeats": repeats, **fields}
    return {
        "model": model,
        "machine": machine(),
        "settings": about,
        "single": [_single(name, answers, single[baseline]) for name, answers in single.items()],
        "load": [asdict(result) for result in results],
        "is_clean": all(result.is_clean for result in results),
    }


async def _model(place: Place) -> str:
    try:
        async with _client(place, 0) as client:
            answer = (await client.get(f"{place.url}/v1/models")).raise_for_status().json()
        return str(answer["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise OutpaceError(f"{place.url} is not an OpenAI-compatible server: {error}") from error


def _references(
    places: Mapping[str, Place], workloads: Sequence[Workload], fields: Mapping[str, Any]
) -> tuple[list[Workload], dict[str, list[Answer]]]:
    """The prompts that fit the server, and the answers of each server to a single client, in the order of the prompts."""

    async def alone(place: Place, workload: Workload) -> Answer:
        async with _client(place, 0) as client:
            return await ask(client, place, workload, fields)

    prompts: list[Workload] = []
    answers: dict[str, list[Answer]] = {name: [] for name in places}
    for workload in track(workloads, len(workloads), "answers to a single client"):
        found = {name: asyncio.run(alone(place, workload)) for name, place in places.items()}
        if any("context_length_exceeded" in (answer.error or "") for answer in found.values()):
            continue
        for name, answer in found.items():
            if not answer.is_whole:
                raise OutpaceError(f"{places[name].url} does not answer prompt {workload.id}: {answer.error or 'the stream ended early'}")
            answers[name].append(answer)
        prompts.append(workload)
    if not prompts:
        raise OutpaceError("no prompt is short enough for the server and max-tokens")
    if len(prompts) < len(workloads):
        note(f"skipped {len(workloads) - len(prompts)} prompts that are, with their answers, too long for the server")
    return prompts, answers


async def _load(
    cell: _Cell,
    place: Place,
    prompts: Sequence[Workload],
    num_clients: int,
    seconds: float,
    fields: Mapping[str, Any],
    turn: int,
    tell: Callable[[str], None],
) -> None:
    """Run `num_clients` clients for `seconds` and add their answers to `cell`."""
    started_at = time.perf_counter()
    ends_at, numbers, answers = started_at + seconds, itertools.count(), list[tuple[int, Answer]]()

    async def one_client() -> None:
        while time.perf_counter() < ends_at:
            index = next(numbers) % len(prompts)
            answer = await ask(client, place, prompts[index], fields)
            answers.append((index, answer))
            if answer.error is not None:
                await asyncio.sleep(PAUSE)

    async def ticker() -> None:
        while True:
            tell(f"{len(answers)} answers")
            await asyncio.sleep(0.25)

    async with _client(place, turn) as client:
        ticking = asyncio.ensure_future(ticker())
        try:
            await asyncio.gather(*(one_client() for _ in range(num_clients)))
        finally:
            ticking.cancel()
    cell.answers += answers
    cell.seconds += seconds
    cell.num_repeated += max(0, len(answers) - len(prompts))
    cell.tokens_in_time += sum(_tokens_before(answer, ends_at) for _, answer in answers)


def _tokens_before(answer: Answer, end: float) -> float:
    """Number of tokens that arrived before `end`, assuming an even rate between the first token and the end of the answer."""
    if answer.ended_at <= end:
        return answer.num_tokens
    return answer.num_tokens * max(0.0, end - answer.first_at) / (answer.ended_at - answer.first_at) if answer.first_at else 0.0


def _summarise(name: str, level: int, cell: _Cell, baseline: _Cell, references: Sequence[Answer]) -> LoadResult:
    whole = [(index, answer) for index, answer in cell.answers if answer.is_whole]
    errors = [answer.error for _, answer in cell.answers if answer.error is not None]
    long = [answer for _, answer in whole if answer.num_tokens > 1]
    rate, plain = cell.tokens_in_time / cell.seconds, baseline.tokens_in_time / baseline.seconds
    return LoadResult(
        drafter=name,
        num_clients=level,
        seconds=cell.seconds,
        num_requests=len(cell.answers),
        num_errors=len(errors),
        num_lost=sum(answer.is_lost for _, answer in cell.answers),
        num_mixed_up=sum(answer.content != references[index].content for index, answer in whole),
        num_repeated=cell.num_repeated,
        num_tokens=sum(answer.num_tokens for _, answer in whole),
        num_prompt_tokens=sum(answer.num_prompt_tokens for _, answer in whole),
        num_cached_prompt_tokens=sum(answer.num_cached_prompt_tokens for _, answer in whole),
        tokens_per_second=round(rate, 2),
        speedup=round(rate / plain, 3) if plain else 0.0,
        first_token_ms=_spread([answer.first_at - answer.started_at for _, answer in whole]),
        per_token_ms=_spread([(answer.ended_at - answer.first_at) / (answer.num_tokens - 1) for answer in long]),
        request_ms=_spread([answer.ended_at - answer.started_at for _, answer in whole]),
        errors=list(dict.fromkeys(errors))[:3],
    )


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds; 0 without values."""
    low, high = np.percentile(seconds, [50, 95]) if seconds else (0.0, 0.0)
    return {"median": round(1e3 * float(low), 2), "p95": round(1e3 * float(high), 2)}


def _single(name: str, answers: Sequence[Answer], baseline: Sequence[Answer]) -> dict[str, Any]:
    """The number of answers to a single client, and how many of them equal those of the first drafter."""
    same = sum(answer.content == other.content for answer, other in zip(answers, baseline, strict=True))
    return {"drafter": name, "num_prompts": len(answers), "num_identical": same}
