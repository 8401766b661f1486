"""Prompt lookup (Saxena 2023): what followed these words the last time they occurred in the prompt or the answer?

Tables from word pairs and longer n-grams to the places right after them, extended by each new token in O(1); the longest
n-gram that has occurred before gives the draft. A match of one token is weak evidence, so it drafts fewer tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from outpace.core import EMPTY_DRAFT, Draft, Request
from outpace.drafters.base import Drafter, DrafterContext
from outpace.errors import BadInputError
from outpace.tree import merge_chains

NUM_PLACES = 16  # occurrences looked at for "most frequent" and for branches


@dataclass
class NgramTables:
    """For every n-gram of the text so far but the last: the places that followed it, latest last."""

    longest: int
    places: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    num_indexed: int = 0

    def extend(self, token_ids: list[int]) -> None:
        """Index the n-grams that end right before each new token."""
        for end in range(max(self.num_indexed, 1), len(token_ids)):
            for n in range(1, min(self.longest, end) + 1):
                self.places.setdefault(tuple(token_ids[end - n : end]), []).append(end)
        self.num_indexed = len(token_ids)


class PromptLookupDrafter(Drafter):
    """max_ngram, min_ngram: n-gram lengths tried, longest first. choose=recent|frequent. branches: continuations drafted as a tree.

    weak_length: tokens drafted after a match of a single token.
    """

    def __init__(
        self,
        context: DrafterContext,
        max_ngram: int = 3,
        min_ngram: int = 1,
        choose: str = "recent",
        branches: int = 1,
        weak_length: int = 3,
    ):
        if not 1 <= min_ngram <= max_ngram:
            raise BadInputError(f"prompt_lookup: need 1 <= min_ngram <= max_ngram, not {min_ngram} and {max_ngram}")
        if choose not in ("recent", "frequent"):
            raise BadInputError(f"prompt_lookup: choose must be recent or frequent, not {choose!r}")
        if branches < 1 or weak_length < 1:
            raise BadInputError("prompt_lookup: branches and weak_length must be at least 1")
        if branches > 1 and not context.target.capabilities.tree:
            raise BadInputError("prompt_lookup: this target cannot run trees; use branches=1")
        self.max_ngram, self.min_ngram, self.is_frequent = max_ngram, min_ngram, choose == "frequent"
        self.branches, self.weak_length = branches, weak_length
        self.tables: dict[str, NgramTables] = {}

    def begin(self, request: Request) -> None:
        self.tables[request.id] = NgramTables(self.max_ngram)

    def propose(self, request: Request, budget: int) -> Draft:
        tables, text = self.tables[request.id], request.token_ids
        tables.extend(text)
        for n in range(min(self.max_ngram, len(text)), self.min_ngram - 1, -1):
            places = tables.places.get(tuple(text[-n:]))
            if places:
                length = budget if n > 1 else min(budget, self.weak_length)
                return self._draft(text, places[-NUM_PLACES:], length)
        return EMPTY_DRAFT

    def _draft(self, text: list[int], places: list[int], length: int) -> Draft:
        if self.branches == 1 and not self.is_frequent:
            return Draft.chain(continuation(text, places[-1], length))
        latest = {text[place]: place for place in places}  # next token -> its latest place
        counts = Counter(text[place] for place in places)
        tokens = sorted(latest, key=lambda t: (counts[t] if self.is_frequent else 0, latest[t]), reverse=True)[: self.branches]
        share = -(-length // len(tokens))
        return merge_chains([continuation(text, latest[token], share) for token in tokens], length)

    def end(self, request: Request) -> None:
        self.tables.pop(request.id, None)


def continuation(text: list[int], place: int, length: int) -> list[int]:
    """`length` tokens from `place` on; past the end of the text the copy goes on from its own start (a loop in the text)."""
    copied = text[place : place + length]
    while len(copied) < length:
        copied += copied[: length - len(copied)]
    return copied
