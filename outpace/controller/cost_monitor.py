"""Compares the cost table with measured forward passes and corrects it, for example after calibration on a busy machine.

What is measured while other programs take much of the CPU is not counted: the table is for a machine that serves the model alone, and a
table made wrong by a busy hour would say that drafting does not pay in the quiet hours that follow.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from statistics import median

from outpace.controller.cost import CostTable
from outpace.machine import LoadMeter

TOLERANCE = 0.15  # relative difference above which the table is corrected
LEAST, MOST = 24, 48  # forward passes per size: required before a correction, and remembered
WINDOW = 1.5  # seconds after which it is known how busy the machine was
MAX_OTHER_SHARE = 0.15  # of all CPU time


class CostMonitor:
    """Keeps recent ratios of measured to expected time for each size of the table."""

    def __init__(self, sizes: Sequence[float]):
        self.sizes = sizes
        self.ratios: dict[int, deque[float]] = {}  # index of the size in the table -> latest ratios
        self.pending: list[tuple[int, float]] = []  # (index, ratio) since the window began
        self._begin()

    def record(self, num_tokens: int, expected: float, milliseconds: float) -> None:
        """Record a forward pass of `num_tokens` tokens: the time in the table and the measured time, both in milliseconds."""
        place = min(bisect_left(self.sizes, num_tokens), len(self.sizes) - 1)
        self.pending.append((place, milliseconds / max(expected, 1e-9)))
        if time.perf_counter() - self.began >= WINDOW:
            self._end()
            self._begin()

    def _begin(self) -> None:
        self.pending.clear()
        self.meter, self.began = LoadMeter(), time.perf_counter()
        self.meter.start()

    def _end(self) -> None:
        """Keep the ratios of the window, unless others used the machine."""
        self.meter.stop()
        if (self.meter.other_share or 0.0) <= MAX_OTHER_SHARE:
            for place, ratio in self.pending:
                self.ratios.setdefault(place, deque(maxlen=MOST)).append(ratio)

    def corrected(self, costs: CostTable) -> CostTable | None:
        """A table that matches the measured times; None if it is within TOLERANCE or there are too few measurements."""
        known = {place: median(ratios) for place, ratios in sorted(self.ratios.items()) if len(ratios) >= LEAST}
        if not any(abs(ratio - 1.0) > TOLERANCE for ratio in known.values()):
            return None
        self.ratios.clear()
        return costs.scaled([self.sizes[place] for place in known], list(known.values()))
