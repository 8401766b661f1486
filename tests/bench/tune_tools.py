"""Samples of a made-up measurement."""

from __future__ import annotations

from outpace.bench.intervals import Sample
from outpace.config import SpeculativeConfig


def samples(ratios: list[float], category: str = "chat", first: int = 0, is_identical: bool = True) -> tuple[Sample, ...]:
    """Plain decoding takes 1 s for each prompt; the candidate 1 / ratio, at 4 tokens per step."""
    return tuple(Sample(first + i, category, 1.0, 1.0 / r, 20, 5, is_identical) for i, r in enumerate(ratios))


SUFFIX, LOOKUP, BOTH = SpeculativeConfig("suffix"), SpeculativeConfig("prompt_lookup", 7), SpeculativeConfig("suffix+recycling")
STEADY = [1.68, 1.72, 1.7, 1.66, 1.74, 1.7]
