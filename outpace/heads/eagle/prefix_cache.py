"""K/V of an EAGLE head for finished sequences, so that the target can reuse its own prefix cache in the next turn of a conversation.

The target does not run a cached prefix again, so a head without K/V for that prefix would miss its features and draft worse. The head
therefore reports how long a prefix it has stored, and the target runs the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.heads.eagle.cache import EagleCache

MAX_ROWS, MAX_TEXTS = 16_384, 64


@dataclass(frozen=True)
class _Kept:
    """The tokens [n] of a sequence and the keys and values [kv_heads, m, D] of its first m entries; m < n, as an entry spans two tokens.
    Only sequences of the same cache salt may use them."""

    token_ids: Array
    keys: Array
    values: Array
    cache_salt: str

    @property
    def num_rows(self) -> int:
        return len(self.keys[0])

    def covers(self, other: _Kept) -> bool:
        """Whether the other sequence is a prefix of this one."""
        return self.cache_salt == other.cache_salt and self.num_shared(other.token_ids) >= other.num_rows

    def num_shared(self, token_ids: Array) -> int:
        """Number of entries shared with a sequence of these tokens [n]."""
        length = min(len(self.token_ids), len(token_ids))
        differs = np.flatnonzero(self.token_ids[:length] != token_ids[:length])
        alike = int(differs[0]) if len(differs) else length
        return max(0, min(alike - 1, self.num_rows))


class EagleMemory:
    """The most recently used sequences: at most MAX_TEXTS, with at most MAX_ROWS entries in total."""

    def __init__(self) -> None:
        self.texts: list[_Kept] = []  # most recently used last

    @property
    def num_bytes(self) -> int:
        """Memory of all entries."""
        return sum(kept.keys.nbytes + kept.values.nbytes for kept in list(self.texts))

    def keep(self, token_ids: Sequence[int], cache: EagleCache, cache_salt: str = "") -> None:
        """Store a sequence up to the first gap in its entries. A stored prefix of it is dropped."""
        text = np.array(token_ids, np.int32)
        places = np.array(cache.positions, np.int64)
        gaps = np.flatnonzero(places != np.arange(len(places)))
        num_rows = min(int(gaps[0]) if len(gaps) else len(places), len(text) - 1, MAX_ROWS)
        if num_rows < 1:
            return
        kept = _Kept(text, cache.keys[:, :num_rows].copy(), cache.values[:, :num_rows].copy(), cache_salt)
        self.texts = [*(other for other in self.texts if not kept.covers(other)), kept]
        while len(self.texts) > MAX_TEXTS or sum(other.num_rows for other in self.texts) > MAX_ROWS:
            del self.texts[0]

    def num_reusable_prefix(self, token_ids: Sequence[int], cache_salt: str = "") -> int:
        """Length of the longest stored prefix, in tokens. A sequence too long to store counts as stored, because it would otherwise be run
        again in every turn."""
        if len(token_ids) > MAX_ROWS:
            return len(token_ids)
        return self._best(token_ids, cache_salt)[1]

    def recall(self, token_ids: Sequence[int], num_rows: int, cache: EagleCache, cache_salt: str = "") -> None:
        """Fill an empty cache with the first `num_rows` entries of this sequence, or as many as are stored."""
        best, num_reusable_prefix = self._best(token_ids, cache_salt)
        count = min(num_rows, num_reusable_prefix)
        if best is None or not count:
            return
        self.texts = [*(kept for kept in self.texts if kept is not best), best]
        cache.positions = list(range(count))
        cache.reserve(count)
        cache.write(0, best.keys[:, :count], best.values[:, :count])

    def _best(self, token_ids: Sequence[int], cache_salt: str) -> tuple[_Kept | None, int]:
        """The stored sequence that shares most entries with this one, and their number."""
        text = np.array(token_ids, np.int32)
        own = (kept for kept in self.texts if kept.cache_salt == cache_salt)
        best = max(own, key=lambda kept: kept.num_shared(text), default=None)
        return best, 0 if best is None else best.num_shared(text)
