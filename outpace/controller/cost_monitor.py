"""Compares the cost table with measured forward passes and corrects it, for example after calibration on a busy machine."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from statistics import median

from outpace.controller.cost import CostTable

TOLERANCE = 0.15  # relative difference above which the table is corrected
LEAST, MOST = 24, 48  # forward passes per size: required before a correction, and remembered


class CostMonitor:
    """Keeps recent ratios of measured to expected time for each size of the table."""

    def __init__(self, sizes: Sequence[float]):
        self.sizes = sizes
        self.ratios: dict[int, deque[float]] = {}  # index of the size in the table -> latest ratios

    def record(self, num_tokens: int, expected: float, milliseconds: float) -> None:
        """Record a forward pass of `num_tokens` tokens: the time in the table and the measured time, both in milliseconds."""
        place = min(bisect_left(self.sizes, num_tokens), len(self.sizes) - 1)
        self.ratios.setdefault(place, deque(maxlen=MOST)).append(milliseconds / max(expected, 1e-9))

    def corrected(self, costs: CostTable) -> CostTable | None:
        """A table that matches the measured times; None if it is within TOLERANCE or there are too few measurements."""
        known = {place: median(ratios) for place, ratios in sorted(self.ratios.items()) if len(ratios) >= LEAST}
        if not any(abs(ratio - 1.0) > TOLERANCE for ratio in known.values()):
            return None
        self.ratios.clear()
        return costs.scaled([self.sizes[place] for place in known], list(known.values()))
