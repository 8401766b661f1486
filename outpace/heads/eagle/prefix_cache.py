"""What an EAGLE head remembers of finished texts, so that the next turn of a talk need not be read again for its sake.

The target keeps K/V of texts that were run, and does not run them twice. A head that was not there the first time would then know nothing
of the prompt, and guess worse. So it says how far it remembers a text, and the target runs the rest.
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
    """A text's tokens [n] and the keys and values [kv_heads, m, D] of its first m rows, m < n: a row is of a token and the one after it."""

    token_ids: Array
    keys: Array
    values: Array

    @property
    def num_rows(self) -> int:
        return len(self.keys[0])

    def num_shared(self, token_ids: Array) -> int:
        """Rows that a text with these tokens [n] has as well."""
        length = min(len(self.token_ids), len(token_ids))
        differs = np.flatnonzero(self.token_ids[:length] != token_ids[:length])
        alike = int(differs[0]) if len(differs) else length
        return max(0, min(alike - 1, self.num_rows))


class EagleMemory:
    """The texts used last, MAX_TEXTS and MAX_ROWS of them at most."""

    def __init__(self) -> None:
        self.texts: list[_Kept] = []  # the one used last is the last

    def keep(self, token_ids: Sequence[int], cache: EagleCache) -> None:
        """Remember a text as far as its rows have no gap. One that begins it is not needed any more."""
        text = np.array(token_ids, np.int32)
        places = np.array(cache.positions, np.int64)
        gaps = np.flatnonzero(places != np.arange(len(places)))
        num_rows = min(int(gaps[0]) if len(gaps) else len(places), len(text) - 1, MAX_ROWS)
        if num_rows < 1:
            return
        kept = _Kept(text, cache.keys[:, :num_rows].copy(), cache.values[:, :num_rows].copy())
        self.texts = [*(other for other in self.texts if kept.num_shared(other.token_ids) < other.num_rows), kept]
        while len(self.texts) > MAX_TEXTS or sum(other.num_rows for other in self.texts) > MAX_ROWS:
            del self.texts[0]

    def num_reusable_prefix(self, token_ids: Sequence[int]) -> int:
        """How many tokens at the beginning of this text have rows here; all of a text for which there is no room, as it would be read
        again in every turn."""
        if len(token_ids) > MAX_ROWS:
            return len(token_ids)
        return self._best(token_ids)[1]

    def recall(self, token_ids: Sequence[int], num_rows: int, cache: EagleCache) -> None:
        """Give an empty cache the first `num_rows` rows of this text, or as many of them as are known."""
        best, num_reusable_prefix = self._best(token_ids)
        count = min(num_rows, num_reusable_prefix)
        if best is None or not count:
            return
        self.texts = [*(kept for kept in self.texts if kept is not best), best]
        cache.positions = list(range(count))
        cache.reserve(count)
        cache.write(0, best.keys[:, :count], best.values[:, :count])

    def _best(self, token_ids: Sequence[int]) -> tuple[_Kept | None, int]:
        """The remembered text that shares most rows with this one, and how many."""
        text = np.array(token_ids, np.int32)
        best = max(self.texts, key=lambda kept: kept.num_shared(text), default=None)
        return best, 0 if best is None else best.num_shared(text)
