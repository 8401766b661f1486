"""The tree builder against plain implementations of what it replaces: same tokens, parents, confidences, sources and order, bit by bit."""

from __future__ import annotations

import heapq

from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.drafters.lookahead import NgramPool
from outpace.tree.builder import TreeBuilder, by_level, grow_best_first
from outpace.tree.draft import Draft

FEW = settings(deadline=None, derandomize=True, max_examples=60)
COARSE = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.9, 1.0])  # many ties
shares = st.one_of(COARSE, st.floats(0.0, 1.0))


@st.composite
def drafts(draw) -> Draft:
    size = draw(st.integers(0, 7))
    token_ids = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    parents = [draw(st.integers(-1, node - 1)) for node in range(size)]
    confidences = draw(st.one_of(st.none(), st.lists(shares, min_size=size, max_size=size)))
    num_lookahead = draw(st.integers(0, size))
    for node in range(size - num_lookahead):
        parents[node] = min(parents[node], size - num_lookahead - 1)
    return Draft(token_ids, parents, num_lookahead, confidences)


@st.composite
def tables(draw) -> dict[tuple[int, ...], list[tuple[int, float]]]:
    """path -> its successors, each token once, best first."""
    table = {}
    for path in [(), *((a,) for a in range(3)), *((a, b) for a in range(3) for b in range(3))]:
        row = draw(st.dictionaries(st.integers(0, 2), shares, max_size=3))
        table[path] = sorted(row.items(), key=lambda item: -item[1])
    return table


def content(draft: Draft) -> tuple:
    return list(draft.token_ids), list(draft.parents), list(draft.confidences or ()), list(draft.sources or ()), draft.num_lookahead


# ---- the plain implementations


def plain_merge(parts, budget, names) -> Draft:
    nodes, token_ids, parents, sources, confidences, places = {}, [], [], [], [], []
    for draft, name in zip(parts, names, strict=True):
        place = {-1: -1}
        for node in range(len(draft) - draft.num_lookahead):
            key = (place.get(draft.parents[node], -2), draft.token_ids[node])
            confidence = draft.confidences[node] if draft.confidences else 0.5
            if key in nodes:
                at = place[node] = nodes[key]
                if sources[at] != name:
                    sources[at] += f"+{name}"
                    confidences[at] = 1.0 - (1.0 - confidences[at]) * (1.0 - confidence)
            elif key[0] != -2 and len(token_ids) < budget:
                nodes[key] = place[node] = len(token_ids)
                token_ids.append(key[1])
                parents.append(key[0])
                sources.append(name)
                confidences.append(confidence)
        places.append(place)
    num_nodes = len(token_ids)
    for draft, name, place in zip(parts, names, places, strict=True):
        for node in range(len(draft) - draft.num_lookahead, len(draft)):
            if draft.parents[node] in place:
                place[node] = len(token_ids)
                token_ids.append(draft.token_ids[node])
                parents.append(place[draft.parents[node]])
                sources.append(name)
                confidences.append(0.0)
    return Draft(token_ids, parents, len(token_ids) - num_nodes, confidences, sources)


def plain_extend(draft, successors, budget, threshold, min_expanded) -> Draft:
    """Best first from everything that is there; `successors(path)` yields (token, confidence, source)."""
    token_ids, parents = list(draft.token_ids), list(draft.parents)
    confidences, sources = list(draft.confidences), list(draft.sources)
    taken, paths, heap = set(zip(parents, token_ids, strict=True)), [], []

    def expand(node, path, path_confidence):
        for token, confidence, source in successors(path):
            if path_confidence * confidence >= threshold and (node, token) not in taken:
                heapq.heappush(heap, (-path_confidence * confidence, expand.number, node, token, confidence, source))
                expand.number += 1

    expand.number = 0
    if len(token_ids) >= budget:
        return draft
    expand(-1, (), 1.0)
    for node, (token, parent) in enumerate(zip(draft.token_ids, draft.parents, strict=True)):
        path, path_confidence = paths[parent] if parent >= 0 else ((), 1.0)
        paths.append(((*path, token), path_confidence * confidences[node]))
        expand(node, *paths[node])
    while heap and len(token_ids) < budget:
        minus, _, parent, token, confidence, source = heapq.heappop(heap)
        paths.append(((*paths[parent][0], token) if parent >= 0 else (token,), -minus))
        token_ids.append(token)
        parents.append(parent)
        confidences.append(confidence)
        sources.append(source)
        if -minus >= min_expanded:
            expand(len(token_ids) - 1, *paths[-1])
    return Draft(token_ids, parents, 0, confidences, sources)


def plain_pool(pool: NgramPool, token: int, budget: int) -> Draft:
    token_ids, parents, confidences, heap = [], [], [], []

    def push(found, path_confidence, parent):
        for one in found:
            push.number += 1
            heapq.heappush(heap, (-path_confidence * one.confidence, push.number, parent, one))

    push.number = 0
    push(pool._following(token, {}, 0), 1.0, -1)
    while heap and len(token_ids) < budget:
        minus, _, parent, best = heapq.heappop(heap)
        token_ids.append(best.token)
        parents.append(parent)
        confidences.append(best.confidence)
        push(pool._following(best.token, best.tails, best.depth), -minus, len(token_ids) - 1)
    return Draft(token_ids, parents, 0, confidences)


# ---- the same


@FEW
@given(st.lists(drafts(), max_size=4), st.integers(0, 12), tables(), st.sampled_from([0.0, 0.03, 0.3]), st.sampled_from([0.0, 0.08, 0.5]))
def test_merged_and_extended_drafts(parts, budget, table, threshold, min_expanded):
    names = ["a", "b", "a", "c"][: len(parts)]

    def successors(path):
        return [(token, confidence, "x") for token, confidence in table.get(tuple(path), ())]

    builder, want = TreeBuilder(budget), plain_merge(parts, budget, names)
    builder.add_drafts(parts, names)
    if not builder.num_lookahead:
        assert [builder.path(node)[-1] for node in range(len(builder))] == list(want.token_ids)
        want = plain_extend(want, successors, budget, threshold, min_expanded)
        grow_best_first(builder, successors, threshold, min_expanded)
    assert content(builder.build()) == content(want)


@FEW
@given(tables(), st.integers(0, 12), st.sampled_from([0.0, 0.02, 0.3]))
def test_drafts_of_one_source(table, budget, threshold):
    def successors(path):
        return table.get(tuple(path), ())

    named = plain_extend(
        Draft((), (), confidences=(), sources=()), lambda path: [(*pair, "") for pair in successors(path)], budget, threshold, 0.0
    )
    draft = grow_best_first(TreeBuilder(budget), successors, threshold).build()
    assert draft.sources is None
    assert content(draft)[:3] == content(named)[:3]


@FEW
@given(st.lists(st.lists(shares, min_size=2, max_size=2), max_size=4), st.integers(0, 12))
def test_levels_that_are_independent_of_each_other(levels, budget):
    levels = [list(enumerate(sorted(level, reverse=True))) for level in levels]
    heap = [(-confidence, i, 0, -1, token, confidence) for i, (token, confidence) in enumerate(levels[0])] if levels else []
    token_ids, parents, confidences = [], [], []
    while heap and len(token_ids) < budget:  # equally likely nodes: that of the earlier parent first
        minus, _, depth, parent, token, confidence = heapq.heappop(heap)
        token_ids.append(token)
        parents.append(parent)
        confidences.append(confidence)
        for i, (token, confidence) in enumerate(levels[depth + 1] if depth + 1 < len(levels) else ()):
            heapq.heappush(heap, (minus * confidence, len(token_ids) * 2 + i, depth + 1, len(token_ids) - 1, token, confidence))
    draft = grow_best_first(TreeBuilder(budget), by_level(levels)).build()
    assert content(draft)[:3] == (token_ids, parents, confidences)


@FEW
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(2, 4), st.integers(1, 4), st.integers(0, 12))
def test_drafts_of_an_ngram_pool(text, ngram, most, budget):
    pool = NgramPool(ngram, most)
    pool.read(text)
    assert content(pool.grow(text[-1], budget).build()) == content(plain_pool(pool, text[-1], budget))


@FEW
@given(drafts(), drafts())
def test_path_confidences_follow_what_is_combined(first, second):
    builder = TreeBuilder(20)
    for draft, name in ((first, "a"), (second, "b")):
        if not draft.num_lookahead:
            builder.add_drafts([draft], [name])
    for node in range(len(builder)):
        confidence, path = 1.0, []
        at = node
        while at >= 0:
            path, at = [at, *path], builder.parents[at]
        for at in path:
            confidence *= builder.confidences[at]
        assert builder.path_confidences()[node] == confidence


def test_what_a_full_tree_takes():
    builder = TreeBuilder(2)
    nodes = [builder.add(-1, 5, 0.5, "a"), builder.add(0, 6, 0.5, "a"), builder.add(0, 7, 0.5, "a"), builder.add(-1, 5, 0.5, "b")]
    assert nodes == [0, 1, None, 0]
    assert builder.build() == Draft([5, 6], [-1, 0], 0, [0.75, 0.5], ["a+b", "a"])
