"""The batch of token trees that one forward pass runs: slots, segments, positions and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from outpace.arrays import Array
from outpace.params import SamplingParams
from outpace.tree.draft import Draft, depths


@dataclass(eq=False)
class Slot:
    """One sequence's place in a target's K/V cache: `token_ids` are the tokens whose K/V is stored, in order.

    What is stored may only be reused by slots of the same `cache_salt`.
    """

    index: int
    capacity: int  # tokens it may hold, drafts included
    token_ids: list[int]
    blocks: list[int]
    cache_salt: str = ""

    @property
    def num_cached(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Drawing:
    """How a token is drawn from logits alone: by these parameters, with the noise of this seed."""

    params: SamplingParams
    seed: int


@dataclass(frozen=True)
class Segment:
    """The tokens of one sequence in a forward pass. `parents[i] < i`; -1 is the end of the cached prefix; None means a chain.

    `wants_output` is False for prefill, whose logits are not needed; `wants_hidden`: its hidden states are. `drawing`: how the token after
    each one is drawn, for targets that draw themselves.
    """

    slot: Slot
    token_ids: Sequence[int]
    parents: Sequence[int] | None = None
    wants_output: bool = True
    wants_hidden: bool = False
    drawing: Drawing | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def position_ids(self) -> list[int]:
        """Absolute positions [n]: given by the depth in the tree, not by the place in the segment."""
        start = self.slot.num_cached
        if self.parents is None:
            return list(range(start, start + len(self)))
        return [start + depth for depth in depths(self.parents)]

    @property
    def mask(self) -> Array:
        """[n, n] uint8, 1 where the token of the row attends to that of the column."""
        return causal_mask(len(self)) if self.parents is None else ancestor_mask(self.parents)


TreeBatch = Sequence[Segment]  # what one forward pass runs; outputs come in this order


def causal_mask(n: int) -> Array:
    """[n, n] uint8 lower triangle, read-only: a part of a larger one that all share."""
    return _triangle(max(64, 1 << (n - 1).bit_length()))[:n, :n]


@lru_cache(maxsize=8)
def _triangle(n: int) -> Array:
    mask = np.tril(np.ones((n, n), np.uint8))
    mask.flags.writeable = False
    return mask


def ancestor_mask(parents: Sequence[int]) -> Array:
    """[n, n] uint8: token i attends to itself and its ancestors."""
    n = len(parents)
    mask = np.eye(n, dtype=np.uint8)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


def decode_segment(slot: Slot, root_token: int, draft: Draft, drawing: Drawing | None = None) -> Segment:
    """The last committed token as row 0, then the draft's nodes: draft node i is row i + 1."""
    if draft.is_chain:
        return Segment(slot, [root_token, *draft.token_ids], drawing=drawing)
    return Segment(slot, [root_token, *draft.token_ids], [-1, *(parent + 1 for parent in draft.parents)], drawing=drawing)
