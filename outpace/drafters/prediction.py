"""Predicted outputs: the caller knows roughly what the answer will be, such as the old text of a file that is to be edited.

The drafter keeps a place in the prediction and follows it with long chains while the answer agrees. When the answer deviates, it looks
for the end of the answer in the prediction, longest suffix first and nearest to the last sure place, so insertions, deletions and
replacements cost a step or two each. The model never sees the prediction.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from outpace.drafters.base import Drafter, DrafterContext, unseen
from outpace.drafters.ngram_index import NgramTables
from outpace.errors import BadInputError
from outpace.request import Request, RequestStats
from outpace.tree.builder import TreeBuilder
from outpace.tree.draft import EMPTY_DRAFT, Draft

SOURCE = "prediction"
FIRST_RUN = 4  # tokens of agreement that a prediction is credited with in advance: answers often begin as predicted
SURE_RUN = 3  # tokens in agreement from which on a place counts as sure
LOST_LENGTH, LOST_CONFIDENCE = 3, 0.25  # of the chains that are drafted while the place is not known
PATIENCE = 8  # tokens since the sure place after which the answer seems to be another text: matches of one word mean little then
DRAFTED, MATCHED = 1, 2  # what happened to a token of the prediction


class PredictionDrafter(Drafter):
    """max_suffix: longest end of the answer looked up in the prediction when the two have parted."""

    num_draft_tokens = 24

    def __init__(self, context: DrafterContext, max_suffix: int = 6):
        if not 1 <= max_suffix <= 16:
            raise BadInputError(f"prediction: max_suffix must be from 1 to 16, not {max_suffix}")
        self.max_suffix, self.has_trees = max_suffix, context.target.capabilities.tree
        self.followers: dict[str, _Follower] = {}

    def begin(self, request: Request) -> None:
        if request.prediction:
            self.followers[request.id] = _Follower(list(request.prediction), self.max_suffix)

    def propose(self, request: Request, budget: int) -> Draft:
        follower = self.followers.get(request.id)
        if follower is None:
            return EMPTY_DRAFT
        follower.read(unseen(request, request.num_prompt_tokens + follower.num_read))
        budget = min(budget, request.max_draft_depth)  # what lies behind the end of the answer is neither proposed nor counted as rejected
        chains = follower.chains(budget)[: None if self.has_trees else 1]
        builder = TreeBuilder(budget)
        for start, length in chains:
            follower.mark(start, length)
            confidences = [follower.confidence(depth) for depth in range(length)]
            builder.add_chain(follower.prediction[start : start + length], confidences, SOURCE)
        return builder.build()

    def end(self, request: Request) -> None:
        follower = self.followers.pop(request.id, None)
        if follower is not None:
            follower.read(request.output_token_ids[follower.num_read :])
            request.stats.num_rejected_prediction_tokens = follower.num_rejected


@dataclass
class _Follower:
    """Where one answer stands in its prediction; a function of the answer's tokens alone, O(max_suffix) for each.

    place: the token of the prediction that is expected next. run: tokens in agreement up to there, 0 when the place is lost.
    anchor: the last sure place; num_lost: tokens of the answer since then.
    """

    prediction: list[int]
    max_suffix: int
    place: int = 0
    run: int = FIRST_RUN
    anchor: int = 0
    num_lost: int = 0
    num_read: int = 0
    tail: list[int] = field(default_factory=list)  # the answer's last `max_suffix` tokens

    def __post_init__(self) -> None:
        self.tables = NgramTables(self.max_suffix)
        self.tables.extend(self.prediction)
        self.marks = bytearray(len(self.prediction))

    def read(self, token_ids: Sequence[int]) -> None:
        """Follow the answer by these further tokens."""
        for token in token_ids:
            self.tail = [*self.tail, token][-self.max_suffix :]
            if self.run and self.place < len(self.prediction) and self.prediction[self.place] == token:
                self.marks[self.place] |= MATCHED
                self.place, self.run = self.place + 1, self.run + 1
                self.num_lost += 1
                if self.run >= SURE_RUN:
                    self.anchor, self.num_lost = self.place, 0
            else:
                self.num_lost += 1
                self._find()
        self.num_read += len(token_ids)

    def _find(self) -> None:
        """Find the place after the longest end of the answer that the prediction contains; of several, the nearest to the sure place."""
        for n in range(len(self.tail), 0, -1):
            places = self.tables.places.get(tuple(self.tail[-n:]))
            if places:
                at = bisect_left(places, self.anchor)
                near = places[max(0, at - 1) : at + 1]
                self.place = min(near, key=lambda place: (abs(place - self.anchor), -place))
                self.run = n
                self.marks[self.place - 1] |= MATCHED
                if n >= SURE_RUN:
                    self.anchor, self.num_lost = self.place, 0
                return
        self.run = 0

    def chains(self, budget: int) -> list[tuple[int, int]]:
        """(start, length) of the runs of the prediction to draft, best first, together at most `budget` tokens.

        Where the place is not sure: also as if the tokens since the sure place had replaced as many, or had been put in between.
        """
        is_away = self.num_lost > PATIENCE
        wanted = {self.place: 2 if is_away and self.run == 1 else 2 + 2 * self.run} if self.run else {}
        if self.run < SURE_RUN and not is_away:
            wanted = {self.anchor + self.num_lost: LOST_LENGTH, self.anchor: LOST_LENGTH} | wanted
            wanted = dict(sorted(wanted.items(), key=lambda item: -item[1]))  # the found place first
        chains = []
        for start, length in wanted.items():
            length = min(length, budget, len(self.prediction) - start)
            if length > 0:
                chains.append((start, length))
                budget -= length
        return chains

    def confidence(self, depth: int) -> float:
        """Confidence of a draft token at this depth, given the one before it: it grows with the agreement so far."""
        return min(0.97, 1.0 - 1.0 / (self.run + depth + 2)) if self.run else LOST_CONFIDENCE

    def mark(self, start: int, length: int) -> None:
        """These tokens of the prediction are being drafted."""
        for place in range(start, start + length):
            self.marks[place] |= DRAFTED

    @property
    def num_rejected(self) -> int:
        return self.marks.count(DRAFTED)


class _Answer(Protocol):
    """Of a Request or a RequestOutput."""

    @property
    def sources(self) -> list[str]: ...

    @property
    def stats(self) -> RequestStats: ...


def prediction_usage(output: _Answer) -> tuple[int, int]:
    """(accepted, rejected) prediction tokens of a finished answer, from the caller's view.

    accepted: tokens of the answer that the prediction proposed and the model accepted (another drafter may have proposed them too).
    rejected: tokens of the prediction that were proposed at least once and that the answer never followed. A token proposed too early
    and accepted later is not rejected; one that was never proposed, such as one behind the answer's end, is neither. So accepted +
    rejected may be smaller than the prediction, and rejected is never larger. Both are 0 without a prediction.
    """
    accepted = sum(SOURCE in source.split("+") for source in output.sources)
    return accepted, output.stats.num_rejected_prediction_tokens
