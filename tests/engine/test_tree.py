"""Trees: masks and positions against naive walks; merging and cutting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.errors import OutpaceError
from outpace.tree.builder import TreeBuilder
from outpace.tree.draft import EMPTY_DRAFT, Draft, chain_first, check, depths, first_chain, graft, locate, shallow
from outpace.tree.segment import Segment, Slot, ancestor_mask, causal_mask, decode_segment

FEW = settings(deadline=None, derandomize=True, max_examples=80)


@st.composite
def drafts(draw, max_nodes: int = 20, vocab_size: int = 5) -> Draft:
    """Any well-formed tree, with equal siblings and probes."""
    n = draw(st.integers(0, max_nodes))
    parents = [draw(st.integers(-1, i - 1)) for i in range(n)]
    token_ids = draw(st.lists(st.integers(0, vocab_size - 1), min_size=n, max_size=n))
    return Draft(token_ids, parents, draw(st.integers(0, n)))


def ancestors(parents, node) -> list[int]:
    """From the root's child down to the node itself."""
    return [] if node < 0 else [*ancestors(parents, parents[node]), node]


@FEW
@given(drafts())
def test_shallow_keeps_what_is_not_too_deep(draft):
    for depth in range(1, 6):
        left = shallow(draft, depth)
        want = [path for path in (path_of(draft, node) for node in range(len(draft) - draft.num_lookahead)) if len(path) <= depth]
        assert [path_of(left, node) for node in range(len(left) - left.num_lookahead)] == want
        assert left.num_lookahead <= draft.num_lookahead
    assert shallow(draft, 99) is draft


def path_of(draft, node):
    path = []
    while node >= 0:
        path.insert(0, draft.token_ids[node])
        node = draft.parents[node]
    return path


@FEW
@given(drafts())
def test_depths_and_masks_equal_a_walk(draft):
    mask = ancestor_mask(draft.parents)
    for node in range(len(draft)):
        path = ancestors(draft.parents, node)
        assert depths(draft.parents)[node] == len(path) - 1
        assert np.flatnonzero(mask[node]).tolist() == path


def test_causal_mask_is_shared_and_read_only():
    assert (causal_mask(4) == np.tril(np.ones((4, 4)))).all()
    with pytest.raises(ValueError, match="read-only"):
        causal_mask(4)[0, 1] = 1


@FEW
@given(drafts(), st.integers(0, 9))
def test_decode_segment_puts_the_draft_below_the_last_token(draft, num_cached):
    segment = decode_segment(Slot(0, 99, [1] * num_cached, []), 42, draft)
    assert list(segment.token_ids) == [42, *draft.token_ids]
    assert segment.position_ids == [num_cached, *(num_cached + len(ancestors(draft.parents, n)) for n in range(len(draft)))]
    for node in range(len(draft)):
        assert np.flatnonzero(segment.mask[node + 1]).tolist() == [0, *(n + 1 for n in ancestors(draft.parents, node))]


def test_prefill_segments_are_chains():
    segment = Segment(Slot(0, 9, [5, 5], []), [1, 2, 3], wants_output=False)
    assert segment.position_ids == [2, 3, 4]
    assert (segment.mask == causal_mask(3)).all()


@FEW
@given(drafts())
def test_children_leave_out_probes_and_the_first_of_equal_siblings_counts(draft):
    children = draft.children()
    listed = {node for table in children.values() for node in table.values()}
    assert all(node < len(draft) - draft.num_lookahead for node in listed)
    for node in range(len(draft) - draft.num_lookahead):
        first = children[draft.parents[node]][draft.token_ids[node]]
        assert first <= node
        assert (draft.parents[first], draft.token_ids[first]) == (draft.parents[node], draft.token_ids[node])


@FEW
@given(drafts())
def test_first_chain_is_a_path_of_the_tree(draft):
    chain = first_chain(draft)
    assert chain.is_chain
    assert chain.num_lookahead == 0
    path, parent = [], -1
    num_nodes = len(draft) - draft.num_lookahead
    while children := [n for n in range(num_nodes) if draft.parents[n] == parent]:
        parent = children[0]
        path.append(parent)
    assert list(chain.token_ids) == [draft.token_ids[node] for node in path]


def paths(draft, nodes) -> list[tuple[int, ...]]:
    """The tokens on the way down to each node."""
    return [tuple(draft.token_ids[n] for n in ancestors(draft.parents, node)) for node in nodes]


@FEW
@given(drafts())
def test_chain_first_is_the_same_tree_in_another_order(draft):
    moved = chain_first(draft)
    check(moved, 5, len(moved))
    num_nodes = len(draft) - draft.num_lookahead
    assert moved.num_lookahead == draft.num_lookahead
    assert sorted(paths(moved, range(num_nodes))) == sorted(paths(draft, range(num_nodes)))
    assert paths(moved, range(num_nodes, len(draft))) == paths(draft, range(num_nodes, len(draft)))
    chain = first_chain(draft)
    assert list(moved.token_ids[: len(chain)]) == list(chain.token_ids)
    assert list(moved.parents[: len(chain)]) == list(chain.parents)


def merge(parts, budget):
    builder = TreeBuilder(budget)
    builder.add_drafts(parts, [""] * len(parts))
    return builder.build()


@FEW
@given(st.lists(drafts(max_nodes=8), min_size=1, max_size=4), st.integers(0, 20))
def test_merge(parts, budget):
    merged = merge(parts, budget)
    check(merged, 5, budget)
    num_nodes = len(merged) - merged.num_lookahead
    want: list[tuple[int, ...]] = []
    for part in parts:
        for path in paths(part, range(len(part) - part.num_lookahead)):
            if path not in want and len(want) < budget and (len(path) == 1 or path[:-1] in want):
                want.append(path)
    assert paths(merged, range(num_nodes)) == want  # earlier drafts first, every path once
    lookahead = paths(merged, range(num_nodes, len(merged)))
    all_probes = [path for part in parts for path in paths(part, range(len(part) - part.num_lookahead, len(part)))]
    if num_nodes < budget:
        assert lookahead == all_probes  # nothing was cut, so every probe has its place
    else:
        assert set(lookahead) <= set(all_probes)


chains = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=6)


@FEW
@given(chains, st.integers(0, 40))
def test_merge_chains(chains, budget):
    builder = TreeBuilder(budget)
    for chain in chains:
        builder.add_chain(chain, [0.5] * len(chain))
    draft = builder.build()
    check(draft, 4, budget)
    paths = [tuple(draft.token_ids[n] for n in ancestors(draft.parents, node)) for node in range(len(draft))]
    prefixes = list(dict.fromkeys(tuple(chain[: i + 1]) for chain in chains for i in range(len(chain))))
    assert paths == prefixes[:budget]  # earlier chains come first; every shared prefix exists once


@FEW
@given(st.lists(st.integers(0, 3), max_size=5), drafts())
def test_graft_puts_a_stem_before_every_path(stem, draft):
    grown = graft(stem, draft)
    check(grown, 5, len(grown))
    assert grown.num_lookahead == draft.num_lookahead
    assert list(grown.token_ids[: len(stem)]) == stem
    top = len(stem)
    for node in range(len(draft)):
        assert ancestors(grown.parents, node + top) == [*range(top), *(n + top for n in ancestors(draft.parents, node))]
        assert grown.token_ids[node + top] == draft.token_ids[node]
    assert stem or grown is draft


def test_chains_are_recognised():
    assert EMPTY_DRAFT.is_chain
    assert Draft.chain([4, 5, 6]).is_chain
    assert list(Draft.chain([4, 5, 6]).parents) == [-1, 0, 1]
    assert not Draft([4, 5], [-1, -1]).is_chain


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (Draft([1, 2], [-1]), "parents"),
        (Draft([1], [-1], num_lookahead=2), "lookahead"),
        (Draft([1], [-1], num_lookahead=-1), "lookahead"),
        (Draft([1, 2, 3, 4], [-1, 0, 1, 2]), "budget"),
        (Draft([1, 2], [1, -1]), "before its parent"),
        (Draft([1, 2], [-1, 1]), "before its parent"),
        (Draft([1, 2], [-1, -2]), "before its parent"),
        (Draft([1, 5], [-1, 0]), "vocabulary"),
        (Draft([-1, 2], [-1, 0]), "vocabulary"),
    ],
)
def test_malformed_drafts_are_refused(draft, message):
    with pytest.raises(OutpaceError, match=message):
        check(draft, 5, 3)


@FEW
@given(drafts(max_nodes=6))
def test_well_formed_drafts_pass(draft):
    check(draft, 5, len(draft) - draft.num_lookahead)
    if len(draft) > draft.num_lookahead:
        with pytest.raises(OutpaceError):
            check(draft, 5, len(draft) - draft.num_lookahead - 1)


# ---- finding a part again


@FEW
@given(data=st.data())
def test_nodes_are_found_again_by_their_paths(data):
    """However a draft is grafted, merged with others, cut by a budget and rearranged: what is found has the same path of tokens."""

    def draw():
        n = data.draw(st.integers(0, 7))
        draft = Draft([data.draw(st.integers(0, 3)) for _ in range(n)], [data.draw(st.integers(-1, i - 1)) for i in range(n)])
        k = data.draw(st.integers(0, n))
        while any(parent >= n - k for parent in draft.parents[: n - k]):
            k -= 1
        return Draft(draft.token_ids, draft.parents, num_lookahead=k)

    def path(draft, node):
        return [] if node < 0 else [*path(draft, draft.parents[node]), draft.token_ids[node]]

    parts, stem = [draw() for _ in range(data.draw(st.integers(1, 3)))], data.draw(st.lists(st.integers(0, 3), max_size=3))
    budget = data.draw(st.integers(0, 9))
    whole = chain_first(graft(stem, merge(parts, budget)))
    for index, part in enumerate(parts):
        found = locate(whole, part, len(stem) - 1)
        assert len(found) == len(part)
        for node, place in enumerate(found):
            if place is not None:
                assert path(whole, place) == stem + path(part, node)
                assert (place >= len(whole) - whole.num_lookahead) == (node >= len(part) - part.num_lookahead)
        lookahead = [place for node, place in enumerate(found) if node >= len(part) - part.num_lookahead and place is not None]
        assert len(set(lookahead)) == len(lookahead)
        if index == 0 and budget >= len(part):
            assert None not in found
