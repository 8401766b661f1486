"""Suffix decoding (2411.04975, 2411.10666): every place where the end of the text has occurred before votes on what comes next.

A suffix automaton finds the longest suffix that has occurred before, and its shorter ones. Counts of what followed them make a language
model of this text in which longer suffixes weigh more. A tree is grown from it best first, so long certain copies become chains and
uncertain spots become branches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

from outpace.drafters.base import DrafterContext, SuccessorSource, unseen
from outpace.drafters.suffix.answer_cache import BETWEEN, AnswerMemory
from outpace.drafters.suffix.automaton import NO_MATCH, Match, SuffixAutomaton
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.tree.chain import Walker

# Trust in a suffix: the sigmoid of the sum of three scores, fitted to answers of the default model (dev/LOG.md).
BY_LENGTH = (0.0, -1.0, -0.6, -0.4, -0.25, 0.05, 0.1, 0.15, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)  # tokens matched
BY_COUNT = (0.0, -0.9, -0.2, 0.3, 0.7, 1.3)  # occurrences: 1, 2 to 3, 4 to 7, 8 to 15, more
BY_CHOICE = (0.0, 1.5, 0.4, 0.2, 0.0, 0.0, -0.3)  # number of different tokens that followed
LATEST = 0.8  # extra votes of the latest occurrence
MAX_LEVELS = 3  # suffixes that vote, plus one for each text
LONGEST_LATE_MATCH = 32  # last tokens of the context that are matched against a remembered text when the request first meets it
NUM_SUCCESSORS = 8
Places = Sequence[tuple[SuffixAutomaton, Match]]


@dataclass
class _Sources:
    """What one request may copy from: its own text and remembered ones, and where the end of its text stands in each."""

    text: SuffixAutomaton = field(default_factory=SuffixAutomaton)
    walked: dict[SuffixAutomaton, tuple[Match, int]] = field(default_factory=dict)  # remembered text -> (match, context tokens walked)
    matches: list[tuple[SuffixAutomaton, Match]] = field(default_factory=list)


class SuffixDrafter(SuccessorSource):
    """threshold: paths less likely than this are not drafted. memory: tokens of finished answers to remember, 0 = none.

    scopes: number of cache salts whose answers are remembered, the latest ones. file: answers saved earlier, loaded if the file exists.
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

    @property
    def num_bytes(self) -> int:
        return 0 if self.memory is None else self.memory.num_bytes

    def begin(self, request: Request) -> None:
        self.sources[request.id] = _Sources()

    def prepare(self, requests: Sequence[Request]) -> None:
        """Read the new tokens of `request.context`."""
        for request in requests:
            sources = self.sources[request.id]
            text = sources.text
            text.extend(unseen(request, text.num_tokens))
            sources.matches = [(text, text.match)]
            if self.memory:
                start = NO_MATCH, max(0, text.num_tokens - LONGEST_LATE_MATCH)
                for other in self.memory.texts(request.cache_salt):
                    match, num_walked = sources.walked.get(other, start)
                    sources.matches.append((other, other.walk(match, unseen(request, num_walked))))
                sources.walked = {other: (match, text.num_tokens) for other, match in sources.matches[1:]}

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        found = _confidences([(text, text.walk(match, path)) for text, match in self.sources[request.id].matches])
        return sorted(found.items(), key=itemgetter(1), reverse=True)[:NUM_SUCCESSORS]

    def walker(self, request: Request) -> Walker:
        return _SuffixWalker(self.sources[request.id].matches)

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


class _SuffixWalker(Walker):
    """Where the end of a growing path stands in every text."""

    def __init__(self, matches: Places):
        self._places = matches

    def successors(self) -> dict[int, float]:
        return _confidences(self._places)

    def step(self, token: int) -> None:
        self._places = [(text, text.walk(match, (token,))) for text, match in self._places]


def _confidences(places: Places) -> dict[int, float]:
    """next token -> confidence, from the votes of the longest suffixes that end at these places."""
    most = MAX_LEVELS + len(places)
    if len(places) == 1:
        [(text, match)] = places
        levels = text.votes(match, most)
    else:
        levels = [level for text, match in places for level in text.votes(match, most)]
        levels = sorted(levels, key=itemgetter(0), reverse=True)[:most]
    confidences, left = dict[int, float](), 1.0
    for matched, votes in levels:
        if len(votes) == 1:
            token, count = votes[0]
            trust = left * trust_in(matched, count, 1)
            confidences[token] = confidences.get(token, 0.0) + trust
        else:
            total = 0
            for _, count in votes:
                total += count
            trust = left * trust_in(matched, total, len(votes))
            vote = trust / (total + LATEST)
            for token, count in votes:
                confidences[token] = confidences.get(token, 0.0) + vote * count
            confidences[votes[0][0]] += vote * LATEST
        left -= trust
    confidences.pop(BETWEEN, None)
    return confidences


@lru_cache(1 << 14)
def trust_in(matched: int, count: int, choice: int) -> float:
    """Confidence that what followed a suffix before follows it again."""
    count_class = min(count.bit_length(), len(BY_COUNT) - 1)
    score = BY_LENGTH[min(matched, len(BY_LENGTH) - 1)] + BY_COUNT[count_class] + BY_CHOICE[min(choice, len(BY_CHOICE) - 1)]
    return 1.0 / (1.0 + math.exp(-score))
