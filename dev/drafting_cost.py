"""What a guess costs: microseconds of the drafters that look things up, by length of the context. usage: python dev/drafting_cost.py

A random text of 300 words is repeated with changes, as real texts repeat themselves; every step gets one token. Medians.
"""

from __future__ import annotations

import random
import time
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from outpace.core import Request, Verdict
from outpace.drafters import DrafterContext, create_drafter
from outpace.drafters.base import Drafter
from outpace.targets.base import TargetOutput
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request

DRAFTERS = ("prompt_lookup", "suffix", "suffix:memory=20000", "recycling", "suffix+recycling")
LENGTHS = (500, 2000, 8000, 32000)
NUM_STEPS, BUDGET, VOCAB_SIZE = 200, 10, 49152


def text(length: int) -> list[int]:
    """Pieces of earlier text and new words in turn."""
    source = random.Random(1)
    words = [source.randrange(VOCAB_SIZE) for _ in range(300)]
    tokens = list(words)
    while len(tokens) < length:
        start = source.randrange(len(tokens) - 20)
        tokens += [*tokens[start : start + source.randrange(2, 20)], source.choice(words)]
    return tokens[:length]


def measure(spec: str, length: int) -> tuple[float, float, float, float]:
    """(milliseconds of the first proposal, which reads the prompt; microseconds of propose, of successors, of observe)."""
    target = ToyTarget()
    context = DrafterContext(target)
    target.capabilities = type(target.capabilities)(tree=True, vocab_size=VOCAB_SIZE)
    drafter = create_drafter(spec, context)
    tokens = text(length + NUM_STEPS)
    logits = np.random.default_rng(1).standard_normal((BUDGET + 1, VOCAB_SIZE)).astype(np.float32) * 2
    for _ in range(2):  # the first request fills what outlives requests
        request = make_request(target, tokens[:length], drafter=drafter)
        started = time.perf_counter()
        drafter.begin(request)
        drafter.propose(request, BUDGET)
        first = time.perf_counter() - started
        steps = [step(drafter, request, token, logits) for token in tokens[length:]]
        request.finish_reason = "length"
        drafter.end(request)
    proposing, growing, observing = (1e6 * median(times) for times in zip(*steps, strict=True))
    return 1e3 * first, proposing, growing, observing


def step(drafter: Drafter, request: Request, token: int, logits: np.ndarray) -> tuple[float, float, float]:
    """Seconds of propose, successors and observe in a step whose draft is rejected."""
    times = [time.perf_counter()]
    draft = drafter.propose(request, BUDGET)
    times.append(time.perf_counter())
    drafter.successors(request, list(draft.token_ids[:1]))
    times.append(time.perf_counter())
    output = TargetOutput(logits[: len(draft) + 1], None, [request.token_ids[-1], *draft.token_ids])
    request.token_ids.append(token)
    times.append(time.perf_counter())
    drafter.observe(request, Verdict(draft, [], token), output)
    drafter.settle()
    times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1], times[4] - times[3]


def main() -> None:
    """One row for each drafter and length."""
    names = ("prompt, ms", "propose, µs", "successors, µs", "observe, µs")
    table = Table(Column("drafter", no_wrap=True), "context", *names, title=f"drafting, {BUDGET} nodes")
    for spec in DRAFTERS:
        for length in LENGTHS:
            first, *others = measure(spec, length)
            table.add_row(spec, f"{length:,}", f"{first:.1f}", *(f"{value:.0f}" for value in others))
    Console().print(table)


if __name__ == "__main__":
    main()
