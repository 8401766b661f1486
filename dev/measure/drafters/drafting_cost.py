"""Measure the cost of a draft token in microseconds, for drafters that look tokens up, by length of the context.

usage: python dev/measure/drafters/drafting_cost.py [OUT.json]

The context is a random text of 300 words that is repeated with changes, as real texts are; every step yields one token. Reports medians.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from outpace.drafters.base import Drafter, DrafterContext, StepObserver, SuccessorSource
from outpace.drafters.spec import create_drafter
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request
from outpace.tree.draft import Verdict

DRAFTERS = ("prompt_lookup", "suffix", "suffix:memory=20000", "recycling", "suffix+recycling")
LENGTHS = (500, 2000, 8000, 32000)
NUM_STEPS, BUDGET, VOCAB_SIZE = 200, 10, 49152


def text(length: int) -> list[int]:
    """Alternate pieces of earlier text and new words."""
    source = random.Random(1)
    words = [source.randrange(VOCAB_SIZE) for _ in range(300)]
    tokens = list(words)
    while len(tokens) < length:
        start = source.randrange(len(tokens) - 20)
        tokens += [*tokens[start : start + source.randrange(2, 20)], source.choice(words)]
    return tokens[:length]


@dataclass(frozen=True)
class Cost:
    """Medians of a drafter at a context length: milliseconds of the first proposal, which reads the prompt, and microseconds of the other
    calls."""

    drafter: str
    context: int
    prompt_ms: float
    propose_us: float
    propose_us_per_guess: float
    successors_us: float
    observe_us: float


def measure(spec: str, length: int) -> Cost:
    """The costs of a drafter after a context of `length` tokens."""
    target = ToyTarget()
    context = DrafterContext(target)
    target.capabilities = type(target.capabilities)(tree=True, vocab_size=VOCAB_SIZE)
    drafter = create_drafter(spec, context)
    tokens = text(length + NUM_STEPS)
    logits = np.random.default_rng(1).standard_normal((BUDGET + 1, VOCAB_SIZE)).astype(np.float32) * 2
    for _ in range(2):  # the first request fills the caches that outlive requests
        request = make_request(target, tokens[:length], drafter=drafter)
        started = time.perf_counter()
        drafter.begin(request)
        drafter.propose(request, BUDGET)
        first = time.perf_counter() - started
        steps = [step(drafter, request, token, logits) for token in tokens[length:]]
        request.finish_reason = "length"
        drafter.end(request)
    sizes, *times = zip(*steps, strict=True)
    proposing, growing, observing = (round(1e6 * median(seconds), 1) for seconds in times)
    return Cost(spec, length, round(1e3 * first, 2), proposing, round(proposing / max(1.0, mean(sizes)), 1), growing, observing)


def step(drafter: Drafter, request: Request, token: int, logits: np.ndarray) -> tuple[int, float, float, float]:
    """(draft tokens, seconds of propose, of successors, of observe) in a step whose draft is rejected."""
    times = [time.perf_counter()]
    draft = drafter.propose(request, BUDGET)
    times.append(time.perf_counter())
    if isinstance(drafter, SuccessorSource):
        drafter.successors(request, list(draft.token_ids[:1]))
    times.append(time.perf_counter())
    output = TargetOutput(logits[: len(draft) + 1], None, [request.token_ids[-1], *draft.token_ids])
    request.token_ids.append(token)
    times.append(time.perf_counter())
    drafter.observe(request, Verdict(draft, [], token), output)
    if isinstance(drafter, StepObserver):
        drafter.end_step()
    times.append(time.perf_counter())
    return len(draft), times[1] - times[0], times[2] - times[1], times[4] - times[3]


def main() -> None:
    """Print one row per drafter and length, or write them as a JSON document."""
    costs = [measure(spec, length) for spec in DRAFTERS for length in LENGTHS]
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps({"num_nodes": BUDGET, "costs": [asdict(cost) for cost in costs]}, indent=2), "utf-8")
        return
    names = ("prompt, ms", "propose, µs", "per draft token, µs", "successors, µs", "observe, µs")
    table = Table(Column("drafter", no_wrap=True), "context", *names, title=f"drafting, {BUDGET} nodes")
    for cost in costs:
        drafter, context, *figures = asdict(cost).values()
        table.add_row(drafter, f"{context:,}", *(f"{value:.1f}" for value in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
