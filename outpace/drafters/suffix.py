"""Suffix decoding (2411.04975, 2411.10666): every place where the end of the text has occurred before votes on what comes next.

A suffix automaton finds the longest suffix that has occurred before, and its shorter ones; what followed them, counted, is a
language model of this text in which longer suffixes weigh more. A tree is grown from it best first, so long certain copies
become chains and uncertain spots become branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from outpace.automaton import SuffixAutomaton
from outpace.core import Draft, Request
from outpace.drafters.base import Drafter, DrafterContext, grow, unseen
from outpace.errors import BadInputError

TRUST = (0.0, 0.35, 0.6, 0.75, 0.85, 0.9, 0.92, 0.94, 0.95)  # chance that a suffix of 0, 1, 2, … tokens predicts at all
MAX_LEVELS = 4  # suffixes that vote
NUM_SUCCESSORS = 8


class SuffixDrafter(Drafter):
    """threshold: nodes less likely than this are not worth their row."""

    num_draft_tokens = 10

    def __init__(self, context: DrafterContext, threshold: float = 0.05):
        if not 0 < threshold < 1:
            raise BadInputError(f"suffix: threshold must be between 0 and 1, not {threshold:g}")
        self.threshold = threshold
        self.texts: dict[str, SuffixAutomaton] = {}

    def begin(self, request: Request) -> None:
        self.texts[request.id] = SuffixAutomaton()

    def propose(self, request: Request, budget: int) -> Draft:
        return grow(lambda path: self.successors(request, path), budget, self.threshold)

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        text = self._text(request)
        chances: dict[int, float] = {}
        left = 1.0
        for matched, votes in islice(text.votes(text.walk(text.match, path)), MAX_LEVELS):
            trust = left * TRUST[min(matched, len(TRUST) - 1)]
            total = sum(count for _, count in votes)
            for token, count in votes:
                chances[token] = chances.get(token, 0.0) + trust * count / total
            left -= trust
        return sorted(chances.items(), key=lambda item: -item[1])[:NUM_SUCCESSORS]

    def _text(self, request: Request) -> SuffixAutomaton:
        """The automaton of `request.context`, brought up to date."""
        text = self.texts[request.id]
        text.extend(unseen(request, text.num_tokens))
        return text

    def end(self, request: Request) -> None:
        self.texts.pop(request.id, None)
