"""Where has this word pair (or longer n-gram) occurred before? Tables over a growing text, extended in O(1) a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class NgramTables:
    """For every n-gram of the text so far, up to `longest` tokens, the places right after it, latest last.

    The n-gram at the very end of the text has no place yet, so looking up the end of the text never finds itself.
    """

    longest: int
    places: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    num_indexed: int = 0

    def extend(self, token_ids: Sequence[int]) -> None:
        """Index the n-grams that end right before each new token; `token_ids` is the whole text."""
        for end in range(max(self.num_indexed, 1), len(token_ids)):
            for n in range(1, min(self.longest, end) + 1):
                self.places.setdefault(tuple(token_ids[end - n : end]), []).append(end)
        self.num_indexed = len(token_ids)

    def after(self, token_ids: Sequence[int], n: int, limit: int) -> list[int]:
        """The latest `limit` places that followed the last `n` tokens of `token_ids`."""
        if n > len(token_ids):
            return []
        return self.places.get(tuple(token_ids[-n:]), [])[-limit:]
