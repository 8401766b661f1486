"""Suffix decoding (2411.04975, 2411.10666): every place where the end of the text has occurred before votes on what comes next.

A suffix automaton finds the longest suffix that has occurred before, and its shorter ones; what followed them, counted, is a
language model of this text in which longer suffixes weigh more. A tree is grown from it best first, so long certain copies
become chains and uncertain spots become branches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from heapq import merge
from itertools import islice
from pathlib import Path

from outpace.drafters.base import DrafterContext, SuccessorSource, grow, unseen
from outpace.drafters.suffix.answer_cache import BETWEEN, AnswerMemory
from outpace.drafters.suffix.automaton import NO_MATCH, Match, SuffixAutomaton
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.tree.draft import Draft

# How far a suffix is trusted: the sum of three scores through a sigmoid. Fitted to answers of the default model (dev/LOG.md).
BY_LENGTH = (0.0, -1.0, -0.6, -0.4, -0.25, 0.05, 0.1, 0.15, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)  # tokens matched
BY_COUNT = (0.0, -0.9, -0.2, 0.3, 0.7, 1.3)  # occurrences: 1, 2 to 3, 4 to 7, 8 to 15, more
BY_CHOICE = (0.0, 1.5, 0.4, 0.2, 0.0, 0.0, -0.3)  # different tokens that followed
LATEST = 0.8  # votes that the latest occurrence has more than the others
MAX_LEVELS = 3  # suffixes that vote, and one more for each text
LONGEST_LATE_MATCH = 32  # tokens of the context walked in a text that is new to the request
NUM_SUCCESSORS = 8


@dataclass
class _Sources:
    """What one request may copy from: its own text, and the place in each remembered text."""

    text: SuffixAutomaton
    matches: dict[SuffixAutomaton, tuple[Match, int]]  # remembered text -> (match, number of context tokens walked)


class SuffixDrafter(SuccessorSource):
    """threshold: nodes less likely than this are not worth their row. memory: tokens of finished answers remembered, 0 = none.

    scopes: memory scopes remembered, the latest ones. file: answers saved earlier, loaded at the start if the file exists.
    """

    num_draft_tokens = 10

    def __init__(self, context: DrafterContext, threshold: float = 0.02, memory: int = 0, scopes: int = 8, file: str = ""):
        if not 0 < threshold < 1:
            raise BadInputError(f"suffix: threshold must be between 0 and 1, not {threshold:g}")
        if scopes < 1 or memory < 0 or 0 < memory < 4:
            raise BadInputError("suffix: need scopes of at least 1 and a memory of 0 or at least 4 tokens")
        if file and not memory:
            raise BadInputError("suffix: file=… needs memory=N, the number of tokens to remember")
        self.threshold, self.file = threshold, file
        self.memory = AnswerMemory(memory, context.vocab_size, scopes) if memory else None
        self.sources: dict[str, _Sources] = {}
        if file and Path(file).exists():
            self.load(file)

    def begin(self, request: Request) -> None:
        self.sources[request.id] = _Sources(SuffixAutomaton(), {})

    def propose(self, request: Request, budget: int) -> Draft:
        return grow(lambda path: self.successors(request, path), budget, self.threshold)

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        confidences, left = dict[int, float](), 1.0
        levels = [text.votes(text.walk(match, path)) for text, match in self._matches(request)]
        longest_first = levels[0] if len(levels) == 1 else merge(*levels, key=lambda level: -level[0])
        for matched, votes in islice(longest_first, MAX_LEVELS + len(levels)):
            total = sum([count for _, count in votes])
            trust = left * _trust(matched, total, len(votes))
            vote = trust / (total + LATEST)
            for token, count in votes:
                confidences[token] = confidences.get(token, 0.0) + vote * count
            confidences[votes[0][0]] += vote * LATEST
            left -= trust
        confidences.pop(BETWEEN, None)
        return sorted(confidences.items(), key=lambda item: -item[1])[:NUM_SUCCESSORS]

    def _matches(self, request: Request) -> list[tuple[SuffixAutomaton, Match]]:
        """Where the end of `request.context` stands in each text, all brought up to date."""
        sources = self.sources[request.id]
        text = sources.text
        text.extend(unseen(request, text.num_tokens))
        matches = [(text, text.match)]
        if self.memory:
            remembered = self.memory.texts(request.cache_salt)
            num_tokens = text.num_tokens
            for other in remembered:
                match, num_walked = sources.matches.get(other, (NO_MATCH, max(0, num_tokens - LONGEST_LATE_MATCH)))
                matches.append((other, other.walk(match, unseen(request, num_walked))))
            sources.matches = {other: (match, num_tokens) for other, match in matches[1:]}
        return matches

    def end(self, request: Request) -> None:
        self.sources.pop(request.id, None)
        if self.memory and request.finish_reason in ("stop", "length"):
            self.memory.add(request.cache_salt, request.output_token_ids)

    def save(self, path: str | Path = "") -> None:
        """Save the remembered answers of all scopes, to the file of the option `file` by default. Raises BadInputError."""
        if not self.memory or not (path or self.file):
            raise BadInputError("suffix: saving needs memory=N, and a path or file=PATH")
        self.memory.save(Path(path or self.file))

    def load(self, path: str | Path) -> None:
        """Replace the remembered answers by saved ones. Raises BadInputError for a missing, damaged or foreign file."""
        if not self.memory:
            raise BadInputError("suffix: loading needs memory=N")
        self.memory.load(Path(path))


@cache
def _trust(matched: int, count: int, choice: int) -> float:
    """Chance that what followed a suffix before follows it again."""
    count_class = min(count.bit_length(), len(BY_COUNT) - 1)
    score = BY_LENGTH[min(matched, len(BY_LENGTH) - 1)] + BY_COUNT[count_class] + BY_CHOICE[min(choice, len(BY_CHOICE) - 1)]
    return 1.0 / (1.0 + math.exp(-score))
