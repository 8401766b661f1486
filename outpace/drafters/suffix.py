"""Suffix decoding (2411.04975, 2411.10666): every place where the end of the text has occurred before votes on what comes next.

A suffix automaton finds the longest suffix that has occurred before, and its shorter ones; what followed them, counted, is a
language model of this text in which longer suffixes weigh more. A tree is grown from it best first, so long certain copies
become chains and uncertain spots become branches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import islice

from outpace.automaton import SuffixAutomaton
from outpace.core import Draft, Request
from outpace.drafters.base import Drafter, DrafterContext, grow, unseen
from outpace.errors import BadInputError

# How far a suffix is trusted: the sum of three scores through a sigmoid. Fitted to answers of the default model (dev/LOG.md).
BY_LENGTH = (0.0, -1.0, -0.6, -0.4, -0.25, 0.05, 0.1, 0.15, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)  # tokens matched
BY_COUNT = (0.0, -0.9, -0.2, 0.3, 0.7, 1.3)  # occurrences: 1, 2 to 3, 4 to 7, 8 to 15, more
BY_CHOICE = (0.0, 1.5, 0.4, 0.2, 0.0, 0.0, -0.3)  # different tokens that followed
LATEST = 0.8  # votes that the latest occurrence has more than the others
MAX_LEVELS = 4  # suffixes that vote
NUM_SUCCESSORS = 8


class SuffixDrafter(Drafter):
    """threshold: nodes less likely than this are not worth their row."""

    num_draft_tokens = 10

    def __init__(self, context: DrafterContext, threshold: float = 0.02):
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
            total = sum([count for _, count in votes])
            trust = left * _trust(matched, total, len(votes))
            vote = trust / (total + LATEST)
            for token, count in votes:
                chances[token] = chances.get(token, 0.0) + vote * count
            chances[votes[0][0]] += vote * LATEST
            left -= trust
        return sorted(chances.items(), key=lambda item: -item[1])[:NUM_SUCCESSORS]

    def _text(self, request: Request) -> SuffixAutomaton:
        """The automaton of `request.context`, brought up to date."""
        text = self.texts[request.id]
        text.extend(unseen(request, text.num_tokens))
        return text

    def end(self, request: Request) -> None:
        self.texts.pop(request.id, None)


@cache
def _trust(matched: int, count: int, choice: int) -> float:
    """Chance that what followed a suffix before follows it again."""
    count_class = min(count.bit_length(), len(BY_COUNT) - 1)
    score = BY_LENGTH[min(matched, len(BY_LENGTH) - 1)] + BY_COUNT[count_class] + BY_CHOICE[min(choice, len(BY_CHOICE) - 1)]
    return 1.0 / (1.0 + math.exp(-score))
