"""Trees of the drafter eagle are those of a slow literal implementation, whatever came before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from eagle_tools import GREEDY, PROMPTS, SAMPLED
from helper_tools import random_eagle
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.eagle import EagleDrafter
from outpace.drafters.spec import create_drafter
from outpace.heads.eagle import draft_tree as eagle_tree
from outpace.heads.eagle.cache import EagleCache
from outpace.heads.eagle.draft_tree import TreeShape, grow_trees
from outpace.heads.eagle.weights import eagle_weights
from outpace.heads.runtime import EagleRows, build_eagle
from outpace.targets.base import Embeddings, LMHead, TargetOutput
from outpace.targets.identity import Base
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, generate, make_request, run
from outpace.tree.draft import Draft, Verdict, depths, select

BASE = Base("tiny", "f" * 16, 24, 40)


class Slow:
    """One text, one row at a time, everything computed anew for each path: what the fast trees are compared with."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.embeddings, self.lm_head = rng.normal(0, 0.3, (2, BASE.vocab_size, BASE.hidden_size)).astype(np.float32)
        self.helper = random_eagle(BASE, seed=seed)
        self.weights = eagle_weights(self.helper)
        lent = Embeddings(self.embeddings), LMHead("numpy", self.lm_head, BASE.vocab_size)
        self.head = build_eagle(self.weights, *lent, 10)

    def guesses(self, rows, path):
        """(tokens, chances) after a path; rows (position, token, feature) are those of the text."""
        rows = list(rows)
        for depth in range(len(path) + 1):
            n = len(rows)
            kv = np.zeros((1, self.weights.num_kv_heads, 0, self.weights.head_dim), np.float32)
            temperature = self.weights.temperatures[min(depth, len(self.weights.temperatures) - 1)]
            found = self.head(
                EagleRows(
                    np.array([[token for _, token, _ in rows]]),
                    np.array([[feature for _, _, feature in rows]], np.float32),
                    np.array([[position for position, _, _ in rows]], np.float32),
                    np.array([[n - 1]], np.int32),
                    kv,
                    kv,
                    np.ones((1, 1, n), bool),
                    np.array([[temperature]], np.float32),
                )
            )
            if depth < len(path):
                rows.append((rows[-1][0] + 1, path[depth], found.features[0, 0]))
        return found.token_ids[0, 0].tolist(), found.confidences[0, 0].tolist()

    def tree(self, rows, shape):
        """The same levels, from the definition."""
        tree, open_nodes = {}, {(): 1.0}
        for _ in range(shape.max_depth):
            level = sorted(open_nodes.items(), key=lambda item: -item[1])[: shape.branches]
            for path, confidence in level:
                del open_nodes[path]
                tree[path] = list(zip(*self.guesses(rows, path), strict=True))
                children = {(*path, token): confidence * c for token, c in tree[path] if confidence * c >= shape.threshold}
                open_nodes |= {child: c for child, c in children.items() if len(child) < shape.max_depth}
        return tree


def same_tree(found, expected) -> None:
    assert found.keys() == expected.keys()
    for path, successors in expected.items():
        assert [token for token, _ in found[path]] == [token for token, _ in successors]
        np.testing.assert_allclose([c for _, c in found[path]], [c for _, c in successors], rtol=1e-3)


def rows_of(length: int, seed: int):
    """Features of a text with two holes in it."""
    rng = np.random.default_rng(seed)
    places = [place for place in range(3, 3 + length) if place % 11 not in (5, 6)]
    return [(place, int(rng.integers(BASE.vocab_size)), rng.normal(size=BASE.hidden_size).astype(np.float32)) for place in places]


@pytest.mark.parametrize("shape", [(5, 4, 0.02), (3, 2, 0.001), (1, 4, 0.02), (4, 1, 0.0001)])
def test_trees_are_those_of_the_literal_implementation(shape, monkeypatch):
    monkeypatch.setattr(eagle_tree, "FILL", 7)
    slow, shape = Slow(), TreeShape(*shape, np.array([0.4, 0.7], np.float32))
    slow.weights.temperatures[:] = shape.temperatures
    texts = [rows_of(length, length) for length in (1, 9, 40, 140)]
    caches = []
    for text in texts:
        caches.append(EagleCache(slow.weights))
        for place, token, feature in text:
            caches[-1].add(place, [token], feature[None])
    for found, text in zip(grow_trees(slow.head, caches, shape), texts, strict=True):
        same_tree(found, slow.tree(text, shape))
    for cache, text in zip(caches, texts, strict=True):  # one at a time, and with a memory
        more = (text[-1][0] + 1, 7, np.ones(BASE.hidden_size, np.float32))
        cache.add(more[0], [more[1]], more[2][None])
        (found,) = grow_trees(slow.head, [cache], shape)
        same_tree(found, slow.tree([*text, more], shape))


# ---- features never get out of step with tokens


def shown(drafter, request, rows):
    """A drafter of its own that is shown these features (place, feature) and nothing else: its tree."""
    fresh = EagleDrafter.__new__(EagleDrafter)
    fresh.__dict__.update({**vars(drafter), "texts": {}})
    fresh.begin(request)
    text = fresh.texts[request.id]
    for place, feature in rows:
        text.cache.add(place, [request.context[place + 1]], feature[None])
    text.length = len(request.context)
    fresh.prepare([request])
    return fresh.texts[request.id].tree


class Checked(EagleDrafter):
    """Compares every tree with that of a drafter that is shown the same features afresh."""

    num_checked = 0

    def begin(self, request):
        super().begin(request)
        self.rows = {}

    def observe_prompt(self, request, start, hidden):
        super().observe_prompt(request, start, hidden)
        self.rows.update({start + i: state.copy() for i, state in enumerate(hidden)})

    def observe(self, request, verdict, output):
        super().observe(request, verdict, output)
        start = len(request.context) - len(verdict.path) - 2
        self.rows = {place: state for place, state in self.rows.items() if place < start}
        for i, row in enumerate([0, *(node + 1 for node in verdict.path)]):
            self.rows[start + i] = output.hidden[row].copy()

    def propose(self, request, budget):
        draft, text = super().propose(request, budget), self._text(request)
        tree = text.tree if text else None
        assert bool(tree) == (max(self.rows, default=0) == len(request.context) - 2)
        if tree:
            same_tree(tree, shown(self, request, sorted(self.rows.items())))
            type(self).num_checked += 1
        return draft


class Wild(Checked):
    """Side branches first, so that tokens are left pending and some of them do not hold."""

    def propose(self, request, budget):
        draft = super().propose(request, budget)
        level = depths(draft.parents)
        return select(draft, sorted(range(len(draft)), key=lambda node: (level[node], -node)))


@pytest.mark.parametrize("kind", [Checked, Wild])
@pytest.mark.parametrize("chunk", [512, 3])
@pytest.mark.parametrize("period", [None, 2, 3])
def test_any_history_gives_the_tree_of_a_fresh_drafter(fitted, kind, period, chunk):
    target = ToyTarget(sharpness=3.0) if period is None else InexactTarget(period, sharpness=3.0)
    config = EngineConfig(max_num_batched_tokens=chunk, min_prefill_chunk=chunk)
    kind.num_checked, num_restarts = 0, 0
    for params, prompt in itertools.product((GREEDY, SAMPLED), PROMPTS):
        drafter = kind(DrafterContext(target), str(fitted), threshold=0.005)
        reset = drafter.reset

        def count(*args, reset=reset):
            nonlocal num_restarts
            num_restarts += 1
            reset(*args)

        drafter.reset = count
        (plain,) = generate(target, [prompt], params)
        (request,) = run(target, [make_request(target, prompt, params, drafter)], config)
        assert request.output_token_ids == plain
        assert request.id not in drafter.texts
    assert kind.num_checked > 50
    assert (num_restarts > 0) == (period is not None)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=12))
def test_a_cache_holds_the_latest_row_of_each_place(steps):
    """Each step shows some places, from a little before the last known one."""
    cache, known, place, number = EagleCache(Slow().weights), {}, 4, 0
    for count, back in steps:
        place = max(0, place - back)
        known = {at: value for at, value in known.items() if at < place}
        for i in range(count):
            known[place + i] = number + i
        cache.add(place, range(number, number + count), np.zeros((count, BASE.hidden_size)))
        number, place = number + count, place + count
        if number % 3 == 0:
            rows = cache.take(len(cache.waiting))
            cache.reserve(cache.num_rows)
            values = np.array([[[row.token_id]] * 8 for row in rows], float).reshape(1, len(rows), 8).repeat(2, axis=0)
            cache.write(cache.num_rows - len(rows), values, values)
    stored = zip(cache.positions, cache.keys[0, :, 0].tolist(), strict=False)
    assert [*stored, *((row.position, row.token_id) for row in cache.waiting)] == sorted(known.items())


def test_tokens_that_a_limit_cut_are_not_mistaken_for_others(fitted):
    """The context is shorter than what was verified: no feature is put at another's place."""
    drafter = create_drafter(f"eagle:{fitted}", DrafterContext(ToyTarget(sharpness=3.0)))
    request = make_request(ToyTarget(), [0, 1])
    drafter.begin(request)
    request.token_ids += [2, 3]  # without the last token
    hidden = np.zeros((3, 12), np.float32)
    drafter.observe(request, Verdict(Draft.chain([2, 3]), [0, 1], 4), TargetOutput(hidden, hidden, [1, 2, 3]))
    assert len(drafter.propose(request, 8)) == 0
    request.token_ids.append(4)
    drafter.observe(request, Verdict(Draft.chain([2, 3]), [0, 1], 4), TargetOutput(hidden, hidden, [1, 2, 3]))
    assert len(drafter.propose(request, 8)) > 0
    request.token_ids.append(5)  # a resting drafter sees one step in a few
    assert len(drafter.propose(request, 8)) == 0
