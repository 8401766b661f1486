"""A successor table for `recycling`: the mean of the model's next-token probabilities after a token and after a pair of tokens.

Probabilities outside a row's stored tokens count as 0, so a mean is slightly too low, never too high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.heads.successor_table import Successors, find, pair_key
from outpace.progress import meter
from outpace.training.data.shards import Rows

MAX_WAITING = 1 << 22  # probabilities collected before they are summed


@dataclass(frozen=True)
class RecyclingSettings:
    """num_pairs: number of most visited pairs of tokens to keep."""

    num_pairs: int = 65_536


@dataclass(frozen=True)
class Hits:
    """Shares of held-out rows: `known`, whose key is in the table; of these `top_1`, whose next token is the entry's best, and `top_all`,
    whose next token is in the entry."""

    known: float
    top_1: float
    top_all: float

    @classmethod
    def of(cls, table: Successors, keys: Array, tokens: Array) -> Hits:
        """Measure with `keys` [n] and the tokens [n] after them. Without rows, or without known ones, the shares are 0."""
        places, is_known = find(table.keys, keys)
        if not is_known.any():
            return cls(0.0, 0.0, 0.0)
        right = table.tokens[places[is_known]] == tokens[is_known, None]
        return cls(*(round(float(share), 4) for share in (is_known.mean(), right[:, 0].mean(), right.any(axis=1).mean())))


def row_keys(rows: Rows) -> tuple[Array, Array]:
    """Keys of every row [N] int64: that of its token, and that of its pair with the token before; -1 at the start of a text."""
    own = rows.inputs.astype(np.int64)
    before = np.concatenate([[-1], own[:-1]])
    before[rows.starts[:-1]] = -1
    return own, np.where(before >= 0, pair_key(before, own, rows.index.origin.vocab_size), -1)


def successors_of(rows: Rows, singles: Array, pairs: Array, num_pairs: int) -> Successors:
    """Build the table from all rows with a key: every single token, and the `num_pairs` most visited pairs.

    singles, pairs [N]: the keys of the rows, -1 for rows to ignore.
    """
    keys, visits = _visited(singles, pairs, num_pairs)
    vocab_size = rows.index.origin.vocab_size
    sums, start, width = _Sums(), 0, 0
    with meter("successors", len(rows)) as show:
        for tokens, logprobs in rows.likeliest():
            end, width = start + len(tokens), tokens.shape[1]
            for wanted in (singles[start:end], pairs[start:end]):
                places, is_kept = find(keys, wanted)
                codes = places[is_kept, None] * vocab_size + tokens[is_kept]
                sums.add(codes.ravel(), np.exp(logprobs[is_kept].astype(np.float64)).ravel())
            start = end
            show(start, f"{start:,} rows")
    codes, totals = sums.total()
    places, tokens = codes // vocab_size, codes % vocab_size
    order = np.lexsort((-totals, places))
    best = order[np.searchsorted(places, np.arange(len(keys)))[:, None] + np.arange(width)]  # every key has at least `width` tokens
    return Successors(keys, tokens[best], (totals[best] / visits[:, None]).astype(np.float32))


def _visited(singles: Array, pairs: Array, num_pairs: int) -> tuple[Array, Array]:
    """(keys [E], ascending, number of rows of each [E])."""
    single_keys, single_visits = np.unique(singles[singles >= 0], return_counts=True)
    double_keys, double_visits = np.unique(pairs[pairs >= 0], return_counts=True)
    most = np.sort(np.argsort(-double_visits, kind="stable")[:num_pairs])
    return np.concatenate([single_keys, double_keys[most]]), np.concatenate([single_visits, double_visits[most]])


class _Sums:
    """Sums of values by code. Added values are collected and merged in large blocks, so memory stays that of the sums."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Array, Array]] = [(np.empty(0, np.int64), np.empty(0))]
        self.num_waiting = 0

    def add(self, codes: Array, values: Array) -> None:
        """Add values [n] to the sums of codes [n]."""
        self.waiting.append((codes, values))
        self.num_waiting += len(codes)
        if self.num_waiting > MAX_WAITING:
            self.waiting, self.num_waiting = [self.total()], 0

    def total(self) -> tuple[Array, Array]:
        """(codes [n], ascending, their sums [n])."""
        codes, values = (np.concatenate(parts) for parts in zip(*self.waiting, strict=True))
        found, places = np.unique(codes, return_inverse=True)
        return found, np.bincount(places, values, len(found))
