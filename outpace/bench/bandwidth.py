"""How fast this machine reads memory, and so the least time of a forward pass, which reads all weights."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from outpace.machine import num_cores
from outpace.targets.base import TargetModel

MEGABYTES = 256  # read in one round; more than processors cache
ROUNDS = 6


@dataclass(frozen=True)
class PassFloor:
    """The least time of a forward pass: the bytes of weights that it reads / the measured speed of memory."""

    weight_bytes: int
    gigabytes_per_second: float
    milliseconds: float


def pass_floor(target: TargetModel, threads: int | None = None) -> PassFloor | None:
    """Measure it (a second); None for a target that does not know its weights."""
    size = target.weight_bytes()
    if not size:
        return None
    speed = read_speed(threads or num_cores())
    return PassFloor(size, round(speed / 1e9, 2), round(1e3 * size / speed, 3))


def read_speed(threads: int, megabytes: int = MEGABYTES) -> float:
    """Bytes per second that `threads` threads read together: the fastest of several rounds, as noise only takes time."""
    parts = np.array_split(np.ones(megabytes * 2**20, np.uint8), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / best
