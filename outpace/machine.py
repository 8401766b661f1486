"""The processor that this process runs on: its name, its cores, and a mark that changes with its abilities."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path


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
