"""The processor that this process runs on: its name, its cores, a mark that changes with its abilities, and who else uses it."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

MIN_SECONDS = 1.0  # shorter measurements of the CPU are too coarse
STAT = Path("/proc/stat")


@cache
def processor() -> str:
    """The processor's name; what the system calls it where /proc does not say."""
    return _cpuinfo().get("model name", "") or platform.processor()


@cache
def processor_mark() -> str:
    """Eight hex digits from the processor's name and its instruction sets: processors of one name may differ in these."""
    return hashlib.sha256(f"{processor()} {platform.machine()} {_cpuinfo().get('flags', '')}".encode()).hexdigest()[:8]


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """The facts of /proc/cpuinfo about the last core; empty where there is no such file."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8", "replace").splitlines() if file.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


class LoadMeter:
    """The share of CPU time that other programs (and other machines on the same host) took while something was timed."""

    def __init__(self) -> None:
        self.elapsed = self.others = 0.0
        self.before: tuple[float, float, float] | None = None

    def start(self) -> None:
        """Begin to count."""
        self.before = _clocks()

    def stop(self) -> None:
        """Add the time since `start`."""
        after = _clocks()
        if self.before is not None and after is not None:
            (busy, all_cpus, own), (busy_before, all_before, own_before) = after, self.before
            self.elapsed += all_cpus - all_before
            self.others += max(0.0, busy - busy_before - (own - own_before))

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Count the time inside this block."""
        self.start()
        try:
            yield
        finally:
            self.stop()

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
