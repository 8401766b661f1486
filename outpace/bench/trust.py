"""Whether a measurement can be trusted: the share of the CPU that other programs took, the spread of repeats, and what is impossible.

A speedup above tokens per step is impossible, as a step with drafts costs at least as much as one without.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_OTHER_SHARE = 0.10  # of all CPU time
MAX_SPREAD = 0.20  # of repeats: (longest - shortest) / median, in the median over prompts
MAX_EXCESS = 1.05  # of a speedup over tokens per step
MAX_WIDTH = 2.0  # of an interval: high / low


def spread(seconds: Sequence[float]) -> float:
    """Of one prompt's repeats: (longest - shortest) / median."""
    middle = sorted(seconds)[len(seconds) // 2]
    return (max(seconds) - min(seconds)) / middle if middle else 0.0


def machine_noise(other_share: float | None, repeat_spread: float = 0.0) -> str:
    """Why no time of this measurement can be trusted; empty if nothing speaks against it."""
    if other_share is not None and other_share > MAX_OTHER_SHARE:
        return f"other programs took {100 * other_share:.0f}% of the CPU"
    if repeat_spread > MAX_SPREAD:
        return f"repeats of the same prompt differ by {100 * repeat_spread:.0f}%"
    return ""


def is_possible(speedup: float, tokens_per_step: float) -> bool:
    """Whether a speedup, of prompts that run alone, can be real."""
    return speedup <= MAX_EXCESS * tokens_per_step


def interval_text(low: float | None, high: float | None) -> str:
    """An interval for people; "too few prompts" if it is missing or says nothing."""
    return "too few prompts" if low is None or high is None or high > MAX_WIDTH * low else f"{low:.2f} to {high:.2f}"
