"""The K/V cache of an EAGLE head for one sequence: keys and values of the positions whose features the target has returned."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.heads.eagle.weights import EagleWeights

BLOCK = 128  # tokens that the cache grows by; between growths every call has the same shape


@dataclass(frozen=True)
class Row:
    """One input of the head: the feature [H] at a position and the token after it. The feature of a draft token is the head's output."""

    position: int
    token_id: int
    feature: Array


class EagleCache:
    """keys and values [kv_heads, capacity, D]: the first `len(positions)` entries are valid, the rest is room for draft tokens.

    Entries stand in the order of the sequence. Positions whose hidden states the head was not given are missing, and attention skips
    them. `waiting` are inputs without keys and values so far.
    """

    def __init__(self, weights: EagleWeights):
        self.keys, self.values = np.zeros((2, weights.num_kv_heads, 0, weights.head_dim), np.float32)
        self.positions: list[int] = []
        self.waiting: list[Row] = []

    @property
    def num_rows(self) -> int:
        return len(self.positions)

    def add(self, start: int, token_ids: Sequence[int], features: Array) -> None:
        """Add the features [n, H] of the positions from `start` on, each with the token after it; earlier entries from `start` on are
        dropped."""
        del self.positions[bisect_left(self.positions, start) :]
        self.waiting = [row for row in self.waiting if row.position < start]
        copy = np.array(features)
        self.waiting += [Row(start + i, token, copy[i]) for i, token in enumerate(token_ids)]

    def take(self, count: int) -> list[Row]:
        """Remove the first `count` waiting inputs and reserve their entries; the caller writes their keys and values."""
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.positions += [row.position for row in taken]
        return taken

    def reserve(self, num_rows: int) -> None:
        """Grow the capacity to at least `num_rows` entries."""
        missing = -(-num_rows // BLOCK) * BLOCK - self.keys.shape[1]
        if missing > 0:
            self.keys, self.values = (np.pad(rows, ((0, 0), (0, missing), (0, 0))) for rows in (self.keys, self.values))

    def write(self, at: int, keys: Array, values: Array) -> None:
        """Store keys and values [kv_heads, n, D] as the entries from index `at` on."""
        self.keys[:, at : at + keys.shape[1]], self.values[:, at : at + keys.shape[1]] = keys, values
