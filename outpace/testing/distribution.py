"""A statistical test that a verifier keeps the target's distribution: thousands of seeds against exactly known probabilities."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from outpace.drafters.base import DrafterContext
from outpace.params import SamplingParams
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.targets.toy import ToyTarget
from outpace.testing.doubles import SampledDrafter
from outpace.testing.harness import Build, Prompt, make_request, run
from outpace.verifiers.base import Verifier

FALSE_ALARM = 1e-6  # probability that distribution_test rejects a lossless verifier, for fresh seeds
_FALSE_ALARM_Z = 4.7534  # the normal quantile of 1 - FALSE_ALARM


@dataclass(frozen=True)
class DistributionResult:
    """A chi-square test: `passed` is false with probability FALSE_ALARM when the verifier is lossless."""

    statistic: float
    threshold: float
    p_value: float
    num_requests: int

    @property
    def passed(self) -> bool:
        return self.statistic <= self.threshold

    def __str__(self) -> str:
        return f"{self.num_requests:,} answers, chi-square {self.statistic:.1f}, limit {self.threshold:.1f}"


def distribution_test(
    verifier: Verifier | str,
    build: Build | None = None,
    params: SamplingParams | None = None,
    num_requests: int = 4000,
    vocab_size: int = 4,
) -> DistributionResult:
    """Compare the joint distribution of the first 3 output tokens with the exact one, over `num_requests` seeds of one prompt.

    The drafter (default: SampledDrafter) may draft `params.max_tokens` - 1 nodes, by default 4. Seeds are fixed, so the result
    never changes between runs.
    """
    target, prompt, num_tokens = ToyTarget(vocab_size=vocab_size, sharpness=1.0), [1, 2, 0], 3
    params = params or SamplingParams(temperature=1.0, max_tokens=num_tokens + 2)
    drafter = (build or SampledDrafter)(DrafterContext(target))
    ends = (itertools.count(1) for _ in range(num_requests))  # each request ends after `num_tokens`
    stops = [lambda _, end=end: next(end) >= num_tokens for end in ends]
    requests = [make_request(target, prompt, params, drafter, verifier, params.max_tokens, seed, stop) for seed, stop in enumerate(stops)]
    seen = Counter(tuple(request.output_token_ids) for request in run(target, requests))
    return _chi_square(seen, exact_distribution(target, prompt, params, num_tokens))


def exact_distribution(target: ToyTarget, prompt: Prompt, params: SamplingParams, num_tokens: int) -> dict[tuple[int, ...], float]:
    """Probability of every possible beginning of the output; stop tokens are ignored."""
    sampler = RequestSampler(params, 0, build_processors(params, prompt, frozenset(), target.capabilities.vocab_size))
    known: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(num_tokens):
        rows = {path: sampler.probabilities(target.logits_after([*prompt, *path]), path) for path in known}
        known = {(*path, token): p * float(rows[path][token]) for path, p in known.items() for token in np.flatnonzero(rows[path]).tolist()}
    return known


def _chi_square(seen: Mapping[tuple[int, ...], int], probabilities: Mapping[tuple[int, ...], float]) -> DistributionResult:
    """Rare outcomes are pooled until 5 are expected; the tail is the Wilson-Hilferty approximation. An impossible token fails at once."""
    total = sum(seen.values())
    cells: list[tuple[int, float]] = []
    count, expected = 0, 0.0
    for path in sorted(probabilities, key=lambda path: probabilities[path]):
        count, expected = count + seen.get(path, 0), expected + probabilities[path] * total
        if expected >= 5:
            cells.append((count, expected))
            count, expected = 0, 0.0
    statistic = math.inf if seen.keys() - probabilities.keys() else sum((have - want) ** 2 / want for have, want in cells)
    freedom = max(1, len(cells) - 1)
    spread = 2 / (9 * freedom)
    threshold = freedom * (1 - spread + _FALSE_ALARM_Z * math.sqrt(spread)) ** 3
    z = ((statistic / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(spread)
    return DistributionResult(statistic, threshold, math.erfc(z / math.sqrt(2)) / 2, total)
