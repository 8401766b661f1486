"""What an EAGLE head remembers of one text: keys and values of the rows whose features the target has given."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.heads.eagle.weights import EagleWeights

BLOCK = 128  # rows that the memory grows by: between growths every call has the same shape


@dataclass(frozen=True)
class Row:
    """The feature [H] of a place in the text and the token after it; or, in a guess, what stands for them."""

    position: int
    token_id: int
    feature: Array


class EagleCache:
    """keys and values [kv_heads, capacity, D]: the first `len(positions)` rows count, the rest is room for guesses.

    Rows stand in the order of the text. Places may be missing, where nobody was shown the target's hidden states: then attention does
    without them. `waiting` are rows that have no keys and values yet.
    """

    def __init__(self, weights: EagleWeights):
        self.keys, self.values = np.zeros((2, weights.num_kv_heads, 0, weights.head_dim), np.float32)
        self.positions: list[int] = []
        self.waiting: list[Row] = []

    @property
    def num_rows(self) -> int:
        return len(self.positions)

    def add(self, start: int, token_ids: Sequence[int], features: Array) -> None:
        """Features [n, H] of the places from `start` on, each with the token after it; all that was known from `start` on is dropped."""
        del self.positions[bisect_left(self.positions, start) :]
        self.waiting = [row for row in self.waiting if row.position < start]
        copy = np.array(features)
        self.waiting += [Row(start + i, token, copy[i]) for i, token in enumerate(token_ids)]

    def take(self, count: int) -> list[Row]:
        """The first `count` rows that wait, which from now on have a place; the caller writes what they leave."""
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.positions += [row.position for row in taken]
        return taken

    def reserve(self, num_rows: int) -> None:
        """Make room for so many rows."""
        missing = -(-num_rows // BLOCK) * BLOCK - self.keys.shape[1]
        if missing > 0:
            self.keys, self.values = (np.pad(rows, ((0, 0), (0, missing), (0, 0))) for rows in (self.keys, self.values))

    def write(self, at: int, keys: Array, values: Array) -> None:
        """Keys and values [kv_heads, n, D] of the rows from number `at` on."""
        self.keys[:, at : at + keys.shape[1]], self.values[:, at : at + keys.shape[1]] = keys, values
