"""Checks the cost table against real forward passes and corrects it: a table measured on a busy machine does not stay."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from statistics import median

from outpace.controller.cost import CostTable

TOLERANCE = 0.15  # relative difference that is corrected
LEAST, MOST = 24, 48  # forward passes of one size before it is judged, and those that are remembered


class CostMonitor:
    """Ratios of measured to expected time, by the sizes of the table."""

    def __init__(self, sizes: Sequence[float]):
        self.sizes = sizes
        self.ratios: dict[int, deque[float]] = {}  # place of the size in the table -> latest ratios

    def record(self, num_tokens: int, expected: float, milliseconds: float) -> None:
        """One forward pass of `num_tokens` tokens: the table's time and the measured time."""
        place = min(bisect_left(self.sizes, num_tokens), len(self.sizes) - 1)
        self.ratios.setdefault(place, deque(maxlen=MOST)).append(milliseconds / max(expected, 1e-9))

    def corrected(self, costs: CostTable) -> CostTable | None:
        """A table that agrees with the measured times; None while it differs by no more than TOLERANCE, or too little is known."""
        known = {place: median(ratios) for place, ratios in sorted(self.ratios.items()) if len(ratios) >= LEAST}
        if not any(abs(ratio - 1.0) > TOLERANCE for ratio in known.values()):
            return None
        self.ratios.clear()
        return costs.scaled([self.sizes[place] for place in known], list(known.values()))
