"""Lookahead decoding (2402.02057): the model itself predicts several later positions at once, and n-grams it predicted before are drafted.

A window of predictions for the next positions is added to each forward pass as lookahead tokens. Each forward pass gives every column of
the window one more token; the last `ngram` tokens of a column form an n-gram that the model finds plausible. The pool keeps a few n-grams
for each first token, together with those of the text. N-grams that start with the last token are the draft, extended by n-grams that
start with their last token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from outpace.config import EngineConfig
from outpace.drafters.base import Drafter, DrafterContext, last_position
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.sampling.noise import uniform
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.builder import Path, TreeBuilder, grow_best_first
from outpace.tree.draft import Draft, Verdict, locate

TRUST_START, TRUST_INSIDE = 0.52, 0.73  # measured: how often the first token of an n-gram is right, and how often each further one
SEED, NUM_DRAWS = 7, 16  # random tokens that fill an empty window: the seed, and how many draws to find one that is no end token


class LookaheadDrafter(Drafter):
    """window: columns of the window (0: only n-grams of the text). ngram: tokens of an n-gram. guesses: n-grams kept for each token."""

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
        room, has_window = EngineConfig.max_draft_tokens - len(request.unconfirmed), False
        if self.window:
            state.window.move(text, request.stop_token_ids)
            has_window = state.window.end <= last_position(request) and state.window.size < room
        builder = state.pool.grow(text[-1], min(budget, room - (state.window.size - 1) if has_window else room))
        tops = state.window.add_to(builder) if has_window else []
        state.asked = _Asked(builder.build(), len(request.unconfirmed) - 1, tops)
        return state.asked.draft

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        state = self.states[request.id]
        asked, state.asked = state.asked, None
        if asked is None or not asked.tops:
            return
        places = locate(verdict.draft, asked.draft, asked.root)
        nodes = [places[top] if top >= 0 else asked.root for top in asked.tops]
        rows = [node + 1 for node in nodes if node is not None]
        if len(rows) == len(nodes):  # else the window was cut
            following = request.context[state.window.start + 1]
            for ngram in state.window.add(output.logits[rows].argmax(axis=1).tolist(), following):
                state.pool.add(ngram)

    def end(self, request: Request) -> None:
        self.states.pop(request.id, None)


class _Asked(NamedTuple):
    """The draft of this step, the node it hangs off behind unconfirmed tokens, and the newest node of each window column (-1: the root)."""

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
    """A token of the window; a seed was not predicted by the model, it only fills the window at the start."""

    token: int
    is_seed: bool


@dataclass
class Window:
    """`rows[l][j]` is a prediction for position `start + l + j`; row 0 begins with the last known token. Row l is older than row l + 1."""

    width: int
    height: int  # rows of a full window
    start: int = 0
    rows: list[list[Cell]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The last position that the next forward pass predicts."""
        return self.start + len(self.rows) + self.width - 1

    @property
    def size(self) -> int:
        """Number of cells, the last known token included."""
        return len(self.rows) * self.width

    def move(self, text: Sequence[int], ends: Collection[int] = ()) -> None:
        """Move to the end of the text: columns that have become text leave on the left, and as many new ones enter on the right.

        A new cell takes over the newer prediction for its position if there is one, else a seed. A seed also replaces an end token, which
        nothing sensible follows.
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

    def add_to(self, builder: TreeBuilder) -> list[int]:
        """Add the window as lookahead tokens below the root; returns the newest node of each column (-1: the last known token).

        Row 0 is a chain; the rest of each column hangs off its node in row 0. So a cell sees the text, row 0 up to its column, and its own
        column.
        """
        tops = [-1]
        for cell in self.rows[0][1:]:
            tops.append(builder.add_lookahead(tops[-1], cell.token))
        for column in range(self.width):
            for row in self.rows[1:]:
                tops[column] = builder.add_lookahead(tops[column], row[column].token)
        return tops

    def add(self, token_ids: Sequence[int], following: int) -> list[tuple[int, ...]]:
        """Add what the model predicted after the newest cell of each column. Returns the n-grams that this completes.

        `following` is the token that really came after the last token of the text: an n-gram of column 0 that differs is wrong.
        """
        self.rows = [*self.rows, [Cell(token, False) for token in token_ids]]
        if len(self.rows) <= self.height:
            return []
        columns = list(zip(*self.rows, strict=True))
        self.rows, self.start = self.rows[1:], self.start + 1
        columns = [column for i, column in enumerate(columns) if i > 0 or column[1].token == following]
        return [tuple(cell.token for cell in column) for column in columns if not any(cell.is_seed for cell in column[1:])]


def seed(text: Sequence[int], ends: Collection[int], position: int) -> int:
    """A random token of the text, the same one for the same text and position; an end token only if the text has hardly any other."""
    draws = (text[int(uniform(SEED, position, draw) * len(text))] for draw in range(NUM_DRAWS))
    return next((token for token in draws if token not in ends), text[0])


@dataclass
class NgramPool:
    """first token -> {the `ngram` - 1 tokens after it: times seen}, the `most` latest ones, latest last."""

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
        """Record an n-gram as the latest of its first token; one that continues after an end token is ignored."""
        if any(token in self.ends for token in ngram[:-1]):
            return
        tails = self.tails.setdefault(ngram[0], {})
        tails[ngram[1:]] = tails.pop(ngram[1:], 0) + 1
        if len(tails) > self.most:
            del tails[next(iter(tails))]

    def grow(self, token: int, budget: int) -> TreeBuilder:
        """A tree of what may follow `token`; at the end of an n-gram the pool is asked again."""
        places: dict[Path, tuple[dict[tuple[int, ...], int], int]] = {
            (): ({}, 0)
        }  # path -> tails it may be in, and how many tokens of them

        def successors(path: Path) -> list[tuple[int, float]]:
            found = self._following(path[-1] if path else token, *places[path])
            places.update(((*path, following), (tails, depth)) for following, _, tails, depth in found)
            return [(following, confidence) for following, confidence, _, _ in found]

        return grow_best_first(TreeBuilder(budget), successors)

    def _following(self, token: int, tails: dict[tuple[int, ...], int], depth: int) -> list[_Following]:
        """What may follow `token`, the `depth`-th of these tails, or the last token of a tail or the text."""
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
            found.append(_Following(following, trust * sum(chosen.values()) / total, chosen, depth + 1))
        return found


class _Following(NamedTuple):
    """A token that may come next, its confidence if the path before it is right, and the tails it is the `depth`-th token of."""

    token: int
    confidence: float
    tails: dict[tuple[int, ...], int]
    depth: int
