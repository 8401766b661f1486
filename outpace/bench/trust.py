"""Whether a measurement can be trusted: the share of the CPU that other programs took, the spread of repeats, and what is impossible.

A speedup above tokens per step is impossible, as a step with drafts costs at least as much as one without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAX_OTHER_SHARE = 0.10  # of all CPU time
MAX_SPREAD = 0.20  # of repeats: (longest - shortest) / median, in the median over prompts
MAX_EXCESS = 1.05  # of a speedup over tokens per step
MAX_WIDTH = 2.0  # of an interval: high / low
MIN_SECONDS = 1.0  # shorter measurements of the CPU are too coarse
STAT = Path("/proc/stat")


class LoadMeter:
    """The share of CPU time that other programs (and other machines on the same host) took while something was timed."""

    def __init__(self) -> None:
        self.elapsed = self.others = 0.0

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Count the time inside this block."""
        before = _clocks()
        try:
            yield
        finally:
            after = _clocks()
            if before is not None and after is not None:
                (busy, all_cpus, own), (busy_before, all_before, own_before) = after, before
                self.elapsed += all_cpus - all_before
                self.others += max(0.0, busy - busy_before - (own - own_before))

    @property
    def other_share(self) -> float | None:
        """From 0 to 1; None where it cannot be known, or if too little was timed."""
        return self.others / self.elapsed if self.elapsed > MIN_SECONDS * (os.cpu_count() or 1) else None


def _clocks() -> tuple[float, float, float] | None:
    """Seconds of all CPUs: busy, in all, and of this process; None where the system does not tell."""
    try:
        lines = STAT.read_text().splitlines()
    except OSError:
        return None
    if sum(line.startswith("cpu") for line in lines) - 1 != os.cpu_count():
        return None  # a container: these are the clocks of its host
    user, nice, system, idle, waiting, irq, softirq, steal = (int(word) / os.sysconf("SC_CLK_TCK") for word in lines[0].split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + waiting, time.process_time()


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
