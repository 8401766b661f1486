"""Lookahead: who sees whom in the window, how it moves, which n-grams come out of it, and that none of it reaches the text."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.drafters.base import DrafterContext
from outpace.drafters.lookahead import Cell, LookaheadDrafter, NgramPool, Window, seed
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run
from outpace.tree.builder import TreeBuilder
from outpace.tree.draft import Draft, depths
from outpace.tree.segment import ancestor_mask, decode_segment
from outpace.tree.unconfirmed import Unconfirmed

FEW = settings(deadline=None, derandomize=True, max_examples=35)
SPECS = ["lookahead", "lookahead:window=0", "lookahead:ngram=2", "lookahead:window=1:guesses=1", "lookahead:window=5:ngram=5:guesses=5"]
MODES = pytest.mark.parametrize("temperature", [0.0, 0.8])


def build(spec):
    return lambda context: create_drafter(spec, context)


@pytest.mark.parametrize("spec", [*SPECS, "lookahead+prompt_lookup", "prompt_lookup+lookahead:window=4"])
def test_lookahead_keeps_the_rules(spec):
    check_drafter(build(spec))


@pytest.mark.parametrize("options", ["window=-1", "ngram=1", "guesses=0", "window=20:ngram=4"])
def test_bad_options_are_refused(options):
    with pytest.raises(BadInputError, match="lookahead: "):
        create_drafter(f"lookahead:{options}", DrafterContext(ToyTarget()))


def test_targets_without_trees_are_refused():
    with pytest.raises(BadInputError, match="needs a target with 'tree'"):
        create_drafter("lookahead", DrafterContext(ToyTarget(tree=False)))


# ---- the window as a tree


def filled(width: int, num_rows: int, start: int) -> Window:
    """Cell (l, j) holds the token 10 l + j."""
    rows = [[Cell(10 * level + column, False) for column in range(width)] for level in range(num_rows)]
    return Window(width, num_rows, start, rows)


def as_tree(window: Window) -> tuple[Draft, list[int]]:
    builder = TreeBuilder(0)
    tops = window.add_to(builder)
    return builder.build(), tops


@pytest.mark.parametrize(("width", "num_rows"), [(1, 1), (1, 3), (4, 1), (3, 2), (4, 4)])
def test_a_cell_sees_row_0_up_to_its_column_and_its_own_column(width, num_rows):
    lookahead, tops = as_tree(filled(width, num_rows, start=7))
    assert len(lookahead) == lookahead.num_lookahead == width * num_rows - 1
    tokens, mask, depth = [0, *lookahead.token_ids], ancestor_mask([-1, *(p + 1 for p in lookahead.parents)]), depths(lookahead.parents)
    assert sorted(tokens) == sorted(10 * level + column for level in range(num_rows) for column in range(width))
    for node, token in enumerate(lookahead.token_ids):
        level, column = divmod(token, 10)
        seen = {tokens[i] for i in np.flatnonzero(mask[node + 1])}
        assert seen == {*range(column + 1), *(10 * row + column for row in range(level + 1))}
        assert depth[node] + 1 == level + column  # behind the last token, which is at `start`
    assert [tokens[top + 1] for top in tops] == [10 * (num_rows - 1) + column for column in range(width)]


def test_the_target_computes_what_the_window_means():
    target, text = ToyTarget(vocab_size=40), [3, 1, 4, 1, 5, 0]
    window = filled(4, 3, start=5)
    lookahead, tops = as_tree(window)
    slot = target.allocate(40)
    target.forward([decode_segment(slot, text[0], Draft.chain(text[1:-1]))])
    target.accept(slot, text[:-1], range(5))
    logits = target.forward([decode_segment(slot, text[-1], lookahead)]).logits  # raises where positions or visibility are wrong
    for column, top in enumerate(tops):
        path = [cell.token for cell in window.rows[0][1 : column + 1]] + [row[column].token for row in window.rows[1:]]
        assert np.array_equal(logits[top + 1], target.logits_after(text + path))


# ---- how the window moves


class Trajectories:
    """A slow window: every guess by (pass it was made in, absolute position). A column is a diagonal of these."""

    def __init__(self, width, height):
        self.width, self.height, self.cells, self.newest, self.oldest = width, height, {}, 0, 0
        self.start = 0

    def move(self, text):
        start = len(text) - 1
        self.oldest = max(self.oldest, self.newest - self.height + 1)
        base = self.first(self.oldest)
        if not self.cells or start - base >= self.width:
            self.cells, self.oldest = {}, self.newest
        for age in range(self.newest, self.oldest - 1, -1):
            for column in range(self.width):
                position = start + age - self.oldest + column
                newer = self.cells.get((age + 1, position)) if column else None
                self.cells.setdefault((age, position), newer or (seed(text, (), position), True))
        self.cells[self.oldest, start] = (text[-1], False)
        self.start = start

    def first(self, age):
        """Position of column 0 in the row of a pass, before the window moves to the end of the text."""
        return min((position for made, position in self.cells if made == age and position >= self.start), default=0)

    def rows(self):
        return [
            [self.cells[age, self.start + age - self.oldest + column] for column in range(self.width)]
            for age in range(self.oldest, self.newest + 1)
        ]

    def add(self, tokens, following):
        self.newest += 1
        for column, token in enumerate(tokens):
            self.cells[self.newest, self.start + self.newest - self.oldest + column] = (token, False)
        if self.newest - self.oldest < self.height:
            return []
        columns = [[self.cells[self.oldest + i, self.start + i + c] for i in range(self.height + 1)] for c in range(self.width)]
        self.start += 1  # the row of the next pass begins one further on
        columns = [column for i, column in enumerate(columns) if i > 0 or column[1][0] == following]
        return [tuple(token for token, _ in column) for column in columns if not any(is_seed for _, is_seed in column[1:])]


@FEW
@given(
    width=st.integers(1, 5),
    height=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=14),
    data=st.data(),
)
def test_the_window_moves_by_as_many_tokens_as_the_text_grew(width, height, steps, data):
    """0 to all guesses accepted (1 to 6 tokens a step), and steps in which the window was left out."""
    window, slow, text = Window(width, height), Trajectories(width, height), [1, 2, 3]
    for grown, is_run in steps:
        window.move(text)
        slow.move(text)
        assert window.rows == slow.rows()
        assert window.start == len(text) - 1
        if is_run:
            outputs = data.draw(st.lists(st.integers(0, 50), min_size=width, max_size=width))
            following = data.draw(st.integers(0, 5))
            assert window.add(outputs, following) == slow.add(outputs, following)
        text += range(100, 100 + grown)


def test_accepted_tokens_leave_the_window_on_the_left():
    window, text = Window(4, 2), [5, 6]  # the last token is at position 1
    window.move(text)
    assert window.add([12, 13, 14, 15], 72) == []  # the first pass fills the second row, positions 2 to 5
    window.move([*text, 72])
    assert [cell.token for cell in window.rows[1][:3]] == [13, 14, 15]
    assert window.rows[0] == [Cell(72, False), *window.rows[0][1:]]
    first = [cell.token for cell in window.rows[0]]
    assert window.rows[1][3].is_seed
    assert window.add([24, 25, 26, 27], 73) == [(first[1], 14, 25), (first[2], 15, 26)]  # 72 is followed by 73, not by 13
    window.move([*text, 72, 73, 74, 75])  # three tokens were gained: position 5 is column 0 now
    assert [window.rows[0][0], window.rows[0][2]] == [Cell(75, False), Cell(27, False)]  # 27 came of the seed between them
    assert window.rows[0][1].is_seed
    assert window.rows[1][:2] == [Cell(26, False), Cell(27, False)]
    assert window.rows[1][2].is_seed
    window.move([*text, *range(72, 90)])  # beyond everything: it starts again with one row
    assert len(window.rows) == 1


def test_end_tokens_in_the_window_are_replaced():
    window, text, ends = Window(5, 3), [9, 4, 9, 5, 6], {9}
    for _ in range(6):
        window.move(text, ends)
        assert not any(cell.token in ends for row in window.rows for cell in row)
        assert all(9 not in ngram[:-1] for ngram in window.add([9, 4, 9, 9, 5], 4))
        text = [*text, 4]
    window.move([9, 9], ends)  # a text of nothing else
    assert window.rows[0][0] == Cell(9, False)


# ---- what the window collects, on a model


class Checked(LookaheadDrafter):
    """Recomputes by hand what the model says at every column, and compares with the row the window took."""

    target: ToyTarget
    accepted: Counter

    def propose(self, request, budget):
        draft = super().propose(request, budget)
        window = self.states[request.id].window
        self.asked = list(request.context), [[cell.token for cell in row] for row in window.rows], draft.num_lookahead
        return draft

    def observe(self, request, verdict, output):
        state = self.states[request.id]
        is_asked = state.asked is not None and bool(state.asked.tops)
        super().observe(request, verdict, output)
        if not is_asked:
            return
        text, rows, num_lookahead = self.asked
        assert num_lookahead == len(rows) * len(rows[0]) - 1
        said = [
            int(np.argmax(self.target.logits_after([*text, *rows[0][1 : column + 1], *(row[column] for row in rows[1:])])))
            for column in range(self.window)
        ]
        assert [cell.token for cell in state.window.rows[-1]] == said
        self.accepted[len(request.context) - len(text) - 1] += 1


@MODES
@pytest.mark.parametrize("period", [None, 10**9])
def test_the_window_takes_the_outputs_of_its_own_rows(temperature, period):
    """Behind pending tokens too: with a period, the target's trees count as inexact (and are exact in fact)."""
    target = ToyTarget(sharpness=4.0) if period is None else InexactTarget(period, sharpness=4.0)
    drafter = Checked(DrafterContext(target), window=4, ngram=4, guesses=3)
    drafter.target, drafter.accepted = target, Counter()
    params = SamplingParams(temperature=temperature, max_tokens=200)
    (request,) = run(target, [make_request(target, [1, 2, 3], params, drafter)])
    assert request.output_token_ids == generate(target, [[1, 2, 3]], params)[0]
    assert drafter.accepted[0] > 20
    assert sum(count for grown, count in drafter.accepted.items() if grown > 0) > 20


class Counting(ToyTarget):
    """After token i comes i + 1."""

    def logits_after(self, context):
        return np.float32(9) * (np.arange(self.capabilities.vocab_size) == (context[-1] + 1) % self.capabilities.vocab_size)


def test_the_window_finds_what_the_text_does_not_hold():
    """24 tokens, all different, from 13 on: only the window has been at 1, 2, 3 … before."""
    steps = {}
    for window in (0, 3):
        target = Counting(vocab_size=24)
        drafter = LookaheadDrafter(DrafterContext(target), window=window)
        (request,) = run(target, [make_request(target, [0, 0, 0, 0, 0, 12], SamplingParams(max_tokens=22), drafter)])
        assert request.output_token_ids == [*range(13, 24), *range(11)]
        steps[window] = request.stats.num_steps
    assert steps[0] == 22  # nothing to find in the text
    assert steps[3] <= 18


@MODES
def test_repeating_text_is_accepted(temperature):
    target = ToyTarget(sharpness=8.0)
    params = SamplingParams(temperature=temperature, max_tokens=120)
    (request,) = run(target, [make_request(target, [1, 2], params, LookaheadDrafter(DrafterContext(target)))])
    assert request.output_token_ids == generate(target, [[1, 2]], params)[0]
    assert request.stats.num_accepted_tokens > 30


class Fenced(ToyTarget):
    """Has no place for positions from 32 on, as models with learned positions have none."""

    def forward(self, batch, width=0):
        assert all(max(segment.position_ids) < 32 for segment in batch)
        return super().forward(batch, width)


@pytest.mark.parametrize("spec", ["lookahead", "lookahead:window=6:ngram=5", "blanks:count=6", "blanks:after=every"])
def test_no_probe_stands_behind_the_longest_text(spec):
    target = Fenced(sharpness=4.0)
    params = SamplingParams(max_tokens=30)
    assert generate(target, [[1, 2]], params, create_drafter(spec, DrafterContext(target))) == generate(target, [[1, 2]], params)


@pytest.mark.parametrize("num_unconfirmed", [0, 1, 33, 40, 63])
@pytest.mark.parametrize("spec", ["lookahead:window=16", "blanks:count=32:blank=1", "blanks:count=5:after=every"])
def test_pending_tokens_draft_and_probes_fit_into_a_pass(spec, num_unconfirmed):
    drafter = create_drafter(spec, DrafterContext(ToyTarget()))
    request = make_request(ToyTarget(), [1, 2, 3] * 9, SamplingParams(max_tokens=200), drafter)
    drafter.begin(request)
    request.unconfirmed = Unconfirmed([i % 9 for i in range(num_unconfirmed)])
    if "blanks" in spec:
        drafter.states[request.id].levels = {27 + num_unconfirmed + i: [(i % 12, 0.5)] for i in range(70)}
    for _ in range(3):
        draft = drafter.propose(request, 64 - num_unconfirmed)
        assert 0 < len(draft) <= 64 - num_unconfirmed


# ---- the pool


@FEW
@given(
    text=st.lists(st.integers(0, 4), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    ngram=st.integers(2, 4),
    most=st.integers(1, 4),
)
def test_the_pool_holds_the_latest_ngrams_of_the_text(text, cuts, ngram, most):
    pool = NgramPool(ngram, most, ends=(4,))
    for cut in sorted(cuts):
        pool.read(text[:cut])
    pool.read(text)
    seen = [tuple(text[i : i + ngram]) for i in range(len(text) - ngram + 1)]
    seen = [entry for entry in seen if 4 not in entry[:-1]]
    for first in range(5):
        tails = [entry[1:] for entry in seen if entry[0] == first]
        latest = list(dict.fromkeys(reversed(tails)))[:most]
        assert list(reversed(pool.tails.get(first, {}))) == latest


def test_ngrams_are_joined_while_the_budget_lasts():
    pool = NgramPool(3, 3)
    pool.read([1, 2, 3, 4, 5, 6])
    assert list(pool.grow(1, 9).build().token_ids) == [2, 3, 4, 5]
    assert list(pool.grow(1, 3).build().token_ids) == [2, 3, 4]
    assert pool.grow(1, 9).build().is_chain
    assert len(pool.grow(6, 9).build()) == 0
    pool.add((1, 7, 8))
    draft = pool.grow(1, 9).build()
    assert [draft.token_ids[node] for node in draft.children()[-1].values()] == [7, 2]  # both seen once: the later one first
    pool.add((1, 2, 3))
    assert pool.grow(1, 1).build().token_ids == [2]
    assert all(0 < confidence < 1 for confidence in draft.confidences)
