"""A cost table with round numbers."""

from __future__ import annotations

from outpace.controller.cost import SIZES, CostTable


def table(slope: float, switch: float = 0.0) -> CostTable:
    """10 ms for 2 rows, `slope` more for each further one."""
    costs = tuple(10.0 + slope * (num_tokens - 2) for num_tokens in SIZES)
    return CostTable(tuple(map(float, SIZES)), costs, costs, tuple(0.0 for _ in SIZES), switch)
