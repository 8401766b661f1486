"""Speedups with confidence intervals: the ratio of total times over prompts, with an interval by paired bootstrap over prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array

LEVEL, NUM_DRAWS, SEED = 0.95, 2000, 2026
NORMAL = 1.96  # half-width of a 95% interval in standard errors, for many prompts
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # the same for 2, 3, … 11 prompts (Student's t)
SHORTEST = 1e-9  # seconds; avoids a division by zero


@dataclass(frozen=True)
class Sample:
    """One candidate on one prompt, and plain decoding in the same turn, in seconds of decoding. `prompt` is the prompt's index."""

    prompt: int
    category: str
    plain_seconds: float
    seconds: float
    num_tokens: int
    num_steps: int
    is_identical: bool


@dataclass(frozen=True)
class Estimate:
    """A ratio of times with its 95% interval; above 1 is faster. With one prompt there is no interval: low and high are None."""

    value: float
    low: float | None
    high: float | None
    num_prompts: int

    @property
    def is_faster(self) -> bool:
        """Whether the whole interval is above 1."""
        return self.low is not None and self.low > 1.0

    @property
    def is_slower(self) -> bool:
        """Whether the whole interval is below 1."""
        return self.high is not None and self.high < 1.0


def speedup(samples: Sequence[Sample]) -> Estimate | None:
    """Sum of plain seconds divided by sum of seconds over the same prompts; None without samples."""
    rows = [(sample.plain_seconds, sample.seconds) for sample in samples]
    return _estimate(rows, (1, -1)) if rows else None


def speed_ratio(mine: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> Estimate | None:
    """Ratio of tokens per second; both have (tokens, seconds) of the same prompts. None without prompts."""
    rows = [(*a, *b) for a, b in zip(mine, other, strict=True)]
    return _estimate(rows, (1, -1, -1, 1)) if rows else None


def advantage(mine: Sequence[Sample], other: Sequence[Sample]) -> Estimate | None:
    """Ratio of the speedups of `mine` and `other` on the prompts that both have run; None without such prompts."""
    theirs = {sample.prompt: sample for sample in other}
    pairs = [(sample, theirs[sample.prompt]) for sample in mine if sample.prompt in theirs]
    rows = [(a.plain_seconds, a.seconds, b.plain_seconds, b.seconds) for a, b in pairs]
    return _estimate(rows, (1, -1, -1, 1)) if rows else None


def _estimate(rows: Sequence[Sequence[float]], powers: Sequence[int]) -> Estimate:
    """Product of column totals, each to its power (1 or -1); `rows` is [prompts, columns], and the bootstrap draws whole rows.

    With few prompts the bootstrap interval is too narrow (two prompts give two points and nothing outside them), so its logarithm is
    widened as Student's t widens a normal interval.
    """
    seconds = np.maximum(np.array(rows, np.float64), SHORTEST)
    signs = np.array(powers, np.float64)
    n = len(seconds)
    value = float(np.log(seconds.sum(axis=0)) @ signs)
    if n == 1:
        return Estimate(math.exp(value), None, None, 1)
    low, high = np.quantile(_draws(seconds, signs), ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    wide = math.sqrt(n / (n - 1)) * _student(n - 1) / NORMAL
    return Estimate(math.exp(value), math.exp(value + wide * min(low - value, 0)), math.exp(value + wide * max(high - value, 0)), n)


def _draws(seconds: Array, signs: Array) -> Array:
    """Logarithms [NUM_DRAWS] of the ratio for prompts resampled with replacement."""
    n = len(seconds)
    counts = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=NUM_DRAWS)
    return np.asarray(np.log(counts @ seconds) @ signs)


def _student(freedom: int) -> float:
    """97.5% quantile of Student's t; beyond the table, the first terms of its series are accurate to 0.003."""
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else NORMAL + 2.37 / freedom + 2.8 / freedom**2
