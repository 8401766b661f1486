"""The drafter recycling: what its tables learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_tools import FEW, VOCAB_SIZE, begun

from outpace.drafters.base import DrafterContext
from outpace.drafters.recycling import FOLDS, NEW, SuccessorTable, likeliest
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.heads.successor_table import Successors, find
from outpace.targets.base import Capabilities, TargetOutput
from outpace.targets.toy import ToyTarget
from outpace.tree.draft import EMPTY_DRAFT, Draft, Verdict


@pytest.mark.parametrize("size", [5, 100, 4 * 8 * FOLDS, 4 * 8 * FOLDS + 37, 49152])
def test_the_likeliest_tokens_of_a_row(size):
    logits = np.random.default_rng(size).standard_normal((6, size)).astype(np.float32) * 3
    logits[:, -1] += 8  # behind the last whole column
    tokens, confidences = likeliest([logits[:1], logits[1:]], min(8, size))
    true = np.exp(logits - logits.max(axis=1, keepdims=True))
    true /= true.sum(axis=1, keepdims=True)
    assert (np.take_along_axis(true, tokens, axis=1) == -np.sort(-true, axis=1)[:, : tokens.shape[1]]).all()
    exact = np.take_along_axis(true, tokens, axis=1)
    np.testing.assert_allclose(confidences / confidences[:, :1], exact / exact[:, :1], rtol=1e-4)
    assert (confidences >= exact * 0.999).all(), "what is left out of the sum only makes claims larger"
    if size <= 100:
        np.testing.assert_allclose(confidences, exact, rtol=1e-4)
    peaked = logits + np.where(np.arange(size) == tokens[0, 0], 20, 0).astype(np.float32)
    assert likeliest([peaked], min(8, size))[1][0, 0] > 0.99


@FEW
@given(visits=st.lists(st.tuples(st.integers(0, 5), st.permutations(range(6)), st.integers(1, 5)), min_size=1, max_size=30))
def test_a_table_averages_its_visits(visits):
    """With room for every token the average equals the one over whole distributions."""
    table, known = SuccessorTable(3, 4, 6), {}
    for key, tokens, sharpness in visits:
        confidences = np.exp(-sharpness * np.arange(6.0))
        confidences /= confidences.sum()
        table.update(np.array([key]), np.array([tokens]), confidences[None])
        row = np.zeros(6)
        row[list(tokens)] = confidences
        known[key] = NEW * row + (1 - NEW) * known[key] if key in known else row
    for key in range(6):
        tokens, confidences = table.get(key)
        assert bool(tokens) == (key in known)
        if tokens:
            np.testing.assert_allclose(confidences, known[key][tokens], atol=1e-5)
            assert confidences == sorted(confidences, reverse=True)


def test_a_slot_keeps_its_newest_key():
    table = SuccessorTable(3, 5, 2)
    for key, token in ((2, 5), (3, 10), (8, 20)):
        table.update(np.array([key]), np.array([[token, token + 1]]), np.array([[0.6, 0.3]]))
    assert table.get(3) == ([], []), "3 and 8 share a slot"
    assert table.get(8)[0] == [20, 21]
    assert table.get(2)[0] == [5, 6], "small keys share none"


@FEW
@given(
    learnt=st.lists(st.tuples(st.integers(0, 40), st.permutations(range(6))), max_size=20), wanted=st.lists(st.integers(-1, 41), min_size=1)
)
def test_many_keys_are_looked_up_as_one(learnt, wanted):
    own = np.array([1, 7, 9, 30])  # a single token and three pairs, in entries narrower than the table
    start = Successors(own, np.arange(8).reshape(4, 2), np.full((4, 2), 0.25, np.float32))
    table = SuccessorTable(6, 5, 4, start)
    for key, tokens in learnt:
        table.update(np.array([key]), np.array([tokens[:4]]), np.array([[0.5, 0.25, 0.125, 0.0625]], np.float32))
    assert table.get_all(wanted, 3) == [table.get(key, 3) for key in wanted]
    assert table.get(-1) == ([], []) == table.get(41)
    if not learnt:
        assert [table.get(key) for key in own.tolist()] == [([2 * i, 2 * i + 1], [0.25, 0.25]) for i in range(4)]


def peaked(*tokens):
    """Logits with nearly all mass on one token a row."""
    logits = np.zeros((len(tokens), VOCAB_SIZE), np.float32)
    logits[np.arange(len(tokens)), tokens] = 20
    return logits


def teach(drafter, request, draft, path, tokens):
    rows = [request.token_ids[-1], *draft.token_ids]
    request.token_ids += [*(draft.token_ids[node] for node in path), tokens[path[-1] + 1 if path else 0]]
    drafter.observe(request, Verdict(draft, path, request.token_ids[-1]), TargetOutput(peaked(*tokens), None, rows))
    drafter.end_step()


def test_pairs_know_more_than_single_tokens_and_scopes_learn_apart():

    drafter, request = begun("recycling", [1, 2], "alice")
    teach(drafter, request, Draft([7, 8, 9], [-1, 0, -1]), [0], [7, 4, 5, 6])  # 1 2 -> 7; 2 7 -> 4; 7 8 -> 5 and 2 9 -> 6 were guesses
    assert request.token_ids == [1, 2, 7, 4]
    for context, want in (([1, 2], 7), ([2, 7], 4), ([7, 8], 5), ([2, 9], 6), ([3, 9], 6)):
        assert drafter.successors(begun("", context, "alice", drafter=drafter)[1], [])[0][0] == want
    (pair, confidence), *_ = drafter.successors(begun("", [2, 9], "alice", drafter=drafter)[1], [])
    assert confidence > drafter.successors(begun("", [3, 9], "alice", drafter=drafter)[1], [])[0][1]
    teach(drafter, begun("", [3, 9], "alice", drafter=drafter)[1], Draft(), [], [8])
    assert drafter.successors(begun("", [3, 9], "alice", drafter=drafter)[1], [])[0][0] == 8
    assert drafter.successors(begun("", [2], "alice", drafter=drafter)[1], [9])[0][0] == pair
    assert drafter.successors(begun("", [2, 9], "bob", drafter=drafter)[1], []) == []


def test_recycling_keeps_the_latest_scopes():

    drafter, _ = begun("recycling:scopes=2", [1])
    for scope in ("a", "b", "a", "c"):
        teach(drafter, begun("", [1, 2], scope, drafter=drafter)[1], EMPTY_DRAFT, [], [3])
    assert list(drafter.scopes) == ["a", "c"]


def test_recycling_needs_trees():
    with pytest.raises(BadInputError, match="needs a target with 'tree'"):
        create_drafter("recycling", DrafterContext(ToyTarget(tree=False)))
    assert create_drafter("recycling", DrafterContext(ToyTarget())).requires == Capabilities(tree=True)


@FEW
@given(keys=st.sets(st.integers(0, 30)), wanted=st.lists(st.integers(0, 35), max_size=20))
def test_keys_are_found(keys, wanted):
    ordered = np.array(sorted(keys), np.int64)
    places, is_there = find(ordered, np.array(wanted, np.int64))
    assert is_there.tolist() == [key in keys for key in wanted]
    assert [int(ordered[place]) for place in places[is_there]] == [key for key in wanted if key in keys]
