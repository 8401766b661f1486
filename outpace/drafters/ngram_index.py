"""Finds earlier occurrences of n-grams: tables over a growing text, extended in O(1) per token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class NgramTables:
    """For every n-gram of the text so far, up to `longest` tokens, the places right after it, latest last.

    The n-gram at the very end of the text has no place after it, so looking up the end of the text never finds itself.
    """

    longest: int
    text: list[int] = field(default_factory=list)
    places: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def extend(self, token_ids: Iterable[int]) -> None:
        """Append tokens to the text and index the n-grams that end right before each."""
        for token in token_ids:
            end = len(self.text)
            for n in range(1, min(self.longest, end) + 1):
                self.places.setdefault(tuple(self.text[end - n :]), []).append(end)
            self.text.append(token)

    def after(self, ngram: Sequence[int], limit: int) -> list[int]:
        """The latest `limit` places that followed this n-gram."""
        return self.places.get(tuple(ngram), [])[-limit:]
