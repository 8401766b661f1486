"""Lookahead decoding (2402.02057): the model itself guesses many later positions at once, and n-grams it thought of before are checked.

A window of guesses for the next positions rides along as probes. Each pass gives every column of the window one more token; the last
`ngram` of them, from one pass after the other, are an n-gram the model finds plausible. The pool keeps a few for each first token,
together with those of the text. N-grams that start with the last token are the draft; what follows their last token makes them longer.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from outpace.config import EngineConfig
from outpace.drafters.base import Drafter, DrafterContext
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.sampling.sampler import uniform
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.draft import EMPTY_DRAFT, Draft, Verdict, locate

TRUST_START, TRUST_INSIDE = 0.52, 0.73  # measured: how often one of a token's n-grams begins right, and goes on to be right
SEED, NUM_DRAWS = 7, 16  # of the tokens that fill an empty window: the noise's seed, and how often to try for one that is no end


class LookaheadDrafter(Drafter):
    """window: columns of guesses (0: only n-grams of the text). ngram: tokens of an n-gram. guesses: n-grams kept for each token."""

    requires = Capabilities(tree=True, lookahead=True)

    def __init__(self, context: DrafterContext, window: int = 3, ngram: int = 3, guesses: int = 3):
        if window < 0 or ngram < 2 or guesses < 1:
            raise BadInputError(f"lookahead: need window >= 0, ngram >= 2 and guesses >= 1, not {window}, {ngram} and {guesses}")
        most = EngineConfig.max_draft_tokens // 2
        if window * (ngram - 1) > most:
            raise BadInputError(f"lookahead: window * (ngram - 1) may be {most} at most, not {window * (ngram - 1)}")
        self.window, self.ngram, self.guesses = window, ngram, guesses
        self.num_draft_tokens = min(guesses * (ngram - 1), most)
        self.states: dict[str, _State] = {}

    def begin(self, request: Request) -> None:
        pool = NgramPool(self.ngram, self.guesses, request.stop_token_ids)
        self.states[request.id] = _State(pool, Window(self.window, self.ngram - 1))

    def propose(self, request: Request, budget: int) -> Draft:
        state, text = self.states[request.id], request.context
        state.pool.read(text)
        room, last = (
            EngineConfig.max_draft_tokens - len(request.unconfirmed),
            request.num_prompt_tokens + request.sampling_params.max_tokens - 1,
        )
        lookahead, tops = EMPTY_DRAFT, list[int]()
        if self.window:
            state.window.move(text, request.stop_token_ids)
            if state.window.end <= last and state.window.size < room:  # guesses for later positions would serve nobody
                lookahead, tops = state.window.lookahead()
        draft = state.pool.draft(text[-1], min(budget, room - len(lookahead)))
        n = len(draft)
        parents = [*draft.parents, *(parent + n if parent >= 0 else -1 for parent in lookahead.parents)]
        confidences = [*(draft.confidences or ()), *[0.0] * len(lookahead)]
        draft = Draft([*draft.token_ids, *lookahead.token_ids], parents, None, len(lookahead), confidences)
        state.asked = _Asked(draft, len(request.unconfirmed) - 1, [top + n if top >= 0 else -1 for top in tops])
        return draft

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        state = self.states[request.id]
        asked, state.asked = state.asked, None
        if asked is None or not asked.tops:
            return
        places = locate(verdict.draft, asked.draft, asked.root)
        nodes = [places[top] if top >= 0 else asked.root for top in asked.tops]
        rows = [node + 1 for node in nodes if node is not None]
        if len(rows) == len(nodes):  # else somebody cut the window
            following = request.context[state.window.start + 1]
            for ngram in state.window.add(output.logits[rows].argmax(axis=1).tolist(), following):
                state.pool.add(ngram)

    def end(self, request: Request) -> None:
        self.states.pop(request.id, None)


class _Asked(NamedTuple):
    """The draft of this step, the node it hangs off once pending tokens lead it, and the newest node of each window column."""

    draft: Draft
    root: int
    tops: list[int]


@dataclass
class _State:
    """What is known of one request."""

    pool: NgramPool
    window: Window
    asked: _Asked | None = None


class Cell(NamedTuple):
    """A token of the window; a seed is none of the model's guesses, only something to start from."""

    token: int
    is_seed: bool


@dataclass
class Window:
    """`rows[l][j]` is a guess for position `start + l + j`; row 0 begins with the last known token. Row l is older than row l + 1."""

    width: int
    height: int  # rows of a full window
    start: int = 0
    rows: list[list[Cell]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The last position that the next pass guesses."""
        return self.start + len(self.rows) + self.width - 1

    @property
    def size(self) -> int:
        """Cells, the last known token included."""
        return len(self.rows) * self.width

    def move(self, text: Sequence[int], ends: Collection[int] = ()) -> None:
        """Go to the end of the text: columns that are text by now leave on the left, as many come in on the right.

        A new cell takes over the newer guess for its position if there is one, else a seed. An end token, which nothing sensible
        follows, makes room for a seed too.
        """
        gone, self.start = len(text) - 1 - self.start, len(text) - 1
        self.rows = [row[gone:] for row in self.rows] if gone < self.width and self.rows else [[]]
        for level in reversed(range(len(self.rows))):
            row = self.rows[level]
            newer = self.rows[level + 1] if level + 1 < len(self.rows) else []
            row += [Cell(-1, True)] * (self.width - len(row))
            for column, cell in enumerate(row):
                if cell.token < 0 and 0 < column <= len(newer):
                    row[column] = newer[column - 1]
                elif cell.token < 0 or cell.token in ends:
                    row[column] = Cell(seed(text, ends, self.start + level + column), True)
        self.rows[0][0] = Cell(text[-1], False)

    def lookahead(self) -> tuple[Draft, list[int]]:
        """The window as a tree below the last token, all of it probes, and the newest node of each column (-1: the last token).

        Row 0 is a chain; from each of its nodes hangs the rest of the column. So a cell sees the text, row 0 up to its column, and
        its own column.
        """
        token_ids = [cell.token for cell in self.rows[0][1:]]
        parents = list(range(-1, self.width - 2))
        tops = []
        for column in range(self.width):
            parent = column - 1
            for row in self.rows[1:]:
                token_ids.append(row[column].token)
                parents.append(parent)
                parent = len(token_ids) - 1
            tops.append(parent)
        return Draft(token_ids, parents, num_lookahead=len(token_ids)), tops

    def add(self, token_ids: Sequence[int], following: int) -> list[tuple[int, ...]]:
        """What the model said after the newest cell of each column. Returns the n-grams that are complete with it.

        `following` is what really follows the last token of the text: if column 0 says otherwise, its n-gram is known to be wrong.
        """
        self.rows = [*self.rows, [Cell(token, False) for token in token_ids]]
        if len(self.rows) <= self.height:
            return []
        columns = list(zip(*self.rows, strict=True))
        self.rows, self.start = self.rows[1:], self.start + 1
        columns = [column for i, column in enumerate(columns) if i > 0 or column[1].token == following]
        return [tuple(cell.token for cell in column) for column in columns if not any(cell.is_seed for cell in column[1:])]


def seed(text: Sequence[int], ends: Collection[int], position: int) -> int:
    """Some token of the text, by chance but always the same one; an end token only if the text has hardly any other."""
    draws = (text[int(uniform(SEED, position, draw) * len(text))] for draw in range(NUM_DRAWS))
    return next((token for token in draws if token not in ends), text[0])


@dataclass
class NgramPool:
    """first token -> {the `ngram` - 1 tokens after it: how often seen}, the `most` latest ones, latest last."""

    ngram: int
    most: int
    ends: Collection[int] = ()
    tails: dict[int, dict[tuple[int, ...], int]] = field(default_factory=dict)
    num_read: int = 0

    def read(self, text: Sequence[int]) -> None:
        """Add the n-grams that end in the tokens that are new since the last call; `text` is the whole text."""
        for end in range(max(self.num_read + 1, self.ngram), len(text) + 1):
            self.add(tuple(text[end - self.ngram : end]))
        self.num_read = len(text)

    def add(self, ngram: tuple[int, ...]) -> None:
        """An n-gram was seen: it is the latest of its first token now. What comes after an end token is no text."""
        if any(token in self.ends for token in ngram[:-1]):
            return
        tails = self.tails.setdefault(ngram[0], {})
        tails[ngram[1:]] = tails.pop(ngram[1:], 0) + 1
        if len(tails) > self.most:
            del tails[next(iter(tails))]

    def draft(self, token: int, budget: int) -> Draft:
        """A tree of what may follow `token`, grown best first; at the end of an n-gram the pool is asked again."""
        token_ids: list[int] = []
        parents: list[int] = []
        confidences: list[float] = []
        candidates: list[tuple[float, int, _Candidate]] = []
        number = _push(candidates, 0, self._following(token, {}, 0), 1.0, -1)
        while candidates and len(token_ids) < budget:
            path_confidence, _, best = heapq.heappop(candidates)
            token_ids.append(best.token)
            parents.append(best.parent)
            confidences.append(best.confidence)
            following = self._following(best.token, best.tails, best.depth)
            number = _push(candidates, number, following, -path_confidence, len(token_ids) - 1)
        return Draft(token_ids, parents, None, 0, confidences)

    def _following(self, token: int, tails: dict[tuple[int, ...], int], depth: int) -> list[_Candidate]:
        """Candidates after `token`, the `depth`-th of these tails, or after the last token of a tail or the text."""
        trust = TRUST_INSIDE
        if depth in (0, self.ngram - 1):
            tails, depth, trust = self.tails.get(token, {}), 0, TRUST_START
        groups: dict[int, list[tuple[int, ...]]] = {}  # next token -> tails, latest first
        for tail in reversed(tails):
            groups.setdefault(tail[depth], []).append(tail)
        total = sum(tails.values())
        found = []
        for following, group in groups.items():
            chosen = {tail: tails[tail] for tail in reversed(group)}
            found.append(_Candidate(following, trust * sum(chosen.values()) / total, -1, chosen, depth + 1))
        return found


class _Candidate(NamedTuple):
    """A node that may be drafted: its token, its chance if the parent is right, and the tails it is the `depth`-th token of."""

    token: int
    confidence: float
    parent: int
    tails: dict[tuple[int, ...], int]
    depth: int


def _push(heap: list[tuple[float, int, _Candidate]], number: int, found: Sequence[_Candidate], path_confidence: float, parent: int) -> int:
    """Add the children of a node; of equally likely ones those found first come first."""
    for candidate in found:
        number += 1
        heapq.heappush(heap, (-path_confidence * candidate.confidence, number, candidate._replace(parent=parent)))
    return number
