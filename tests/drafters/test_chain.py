"""Chains: the likeliest continuation, token by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_tools import FEW, begun

from outpace.drafters.base import Drafter
from outpace.drafters.combined import CombinedDrafter
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.tree.chain import PathWalker, best_chains
from outpace.tree.draft import Draft

TEXTS = st.lists(st.integers(0, 5), min_size=1, max_size=40)


def by_table(table):
    """A walker whose successors depend on the last token of the path, -1 at its start."""
    return PathWalker(lambda path: table.get(path[-1] if path else -1, ()))


def best_chain(walkers, limit, threshold):
    [chain] = best_chains([[walker] for walker in walkers], [limit], threshold)
    return chain


def test_the_likeliest_token_is_taken_until_the_path_is_unlikely():
    walker = {-1: [(5, 0.3), (7, 0.6)], 7: [(8, 0.5)], 8: [(9, 0.5)], 9: [(7, 0.9)]}
    assert best_chain([by_table(walker)], 10, 0.2) == [7, 8]  # 0.6, 0.3, 0.15
    assert best_chain([by_table(walker)], 10, 0.1) == [7, 8, 9, 7]  # 0.135, and 0.0675 with the next
    assert best_chain([by_table(walker)], 2, 0.0) == [7, 8]
    assert best_chain([by_table(walker)], 0, 0.0) == []
    assert best_chain([by_table({})], 5, 0.0) == []


def test_a_later_walker_shares_what_the_first_leaves():
    first, second = {-1: [(1, 0.4), (2, 0.3)]}, {-1: [(2, 0.8)]}
    assert best_chain([by_table(first), by_table(second)], 1, 0.53) == [2]  # 0.3 + 0.3 * 0.8 = 0.54
    assert best_chain([by_table(first), by_table(second)], 1, 0.55) == []
    assert best_chain([by_table({}), by_table(second)], 1, 0.79) == [2]


def test_a_walker_is_not_asked_where_it_cannot_change_the_choice():
    def never(path):
        raise AssertionError("asked")

    assert best_chain([by_table({-1: [(1, 0.5), (2, 0.5)]}), PathWalker(never)], 1, 0.0) == [1]


def taught(drafter, texts, salt=""):
    """Let a drafter see which tokens followed in these texts."""
    for text in texts:
        if len(text) < 2:
            continue
        tokens = np.array(text[:-1])
        before = np.array([-1, *text[:-2]])
        likely = np.stack([np.array(text[1:]), (np.array(text[1:]) + 1) % 6, (np.array(text[1:]) + 2) % 6], axis=1)
        drafter.learn(salt, before, tokens, likely, np.broadcast_to([0.6, 0.2, 0.1], likely.shape))


@FEW
@given(text=TEXTS, seen=st.lists(TEXTS, max_size=3), spec=st.sampled_from(["suffix", "recycling:successors=3:table=none"]))
def test_a_chain_follows_the_first_successors(text, seen, spec):
    drafter, request = begun(spec, text)
    if spec != "suffix":
        taught(drafter, seen)
    [chain] = drafter.propose_chains([request], [6], 0.1)
    path, confidence = [], 1.0
    while len(path) < 6 and (found := drafter.successors(request, path)):
        confidence *= found[0][1]
        if confidence < 0.1:
            break
        path.append(found[0][0])
    assert chain == path


@FEW
@given(text=TEXTS, seen=st.lists(TEXTS, max_size=3))
def test_a_combination_drafts_the_same_chain_with_what_its_parts_know(text, seen):
    drafter, request = begun("suffix+recycling:successors=3:table=none", text)
    taught(drafter, seen)
    [chain] = drafter.propose_chains([request], [6], 0.1)
    alone, same = begun("suffix", text)
    if not any(len(one) > 1 for one in seen):
        assert chain == alone.propose_chains([same], [6], 0.1)[0]
    assert all(0 <= token < 6 for token in chain)
    assert len(chain) <= 6


@FEW
@given(
    texts=st.lists(st.tuples(TEXTS, st.sampled_from(["", "", "alice"]), st.integers(0, 6)), min_size=1, max_size=14),
    seen=st.lists(TEXTS, max_size=3),
    spec=st.sampled_from(["suffix:memory=50", "recycling:successors=3:table=none", "suffix+recycling:successors=3:table=none"]),
)
def test_chains_that_grow_together_are_those_that_grow_alone(texts, seen, spec):
    drafter, _ = begun(spec, [0])
    if "recycling" in spec:
        taught(drafter, seen)
        taught(drafter, [seen[0][::-1]] if seen else [], "alice")
    requests, budgets = [], [budget for _, _, budget in texts]
    for number, (text, salt, _) in enumerate(texts):
        requests.append(Request(str(number), text, SamplingParams(), None, None, cache_salt=salt))
        drafter.begin(requests[-1])
    alone = [drafter.propose_chains([request], [budget], 0.05)[0] for request, budget in zip(requests, budgets, strict=True)]
    assert drafter.propose_chains(requests, budgets, 0.05) == alone


class Branching(Drafter):
    """Drafts 7, with 8 and then 9 beside it below 7."""

    def propose(self, request, budget):
        return Draft([7, 8, 9], [-1, 0, 0])


def test_drafters_without_successors_give_their_first_path():
    _, request = begun("suffix", [1, 2, 3, 4, 1, 2, 3])
    assert Branching().propose_chains([request], [3], 0.1) == [[7, 8]]
    drafter = CombinedDrafter([Branching(), begun("suffix", [1, 2, 3, 4, 1, 2, 3])[0]], ["branching", "suffix"])
    drafter.begin(request)
    assert drafter.propose_chains([request], [3], 0.1)[0][:2] == [7, 8]


def test_a_paused_part_is_left_out():
    drafter, request = begun("suffix+recycling:table=none", [1, 2, 3, 4, 1, 2, 3])
    assert isinstance(drafter, CombinedDrafter)
    assert drafter.propose_chains([request], [2], 0.1) == [[4, 1]]
    drafter.pause(["suffix"])
    assert drafter.propose_chains([request], [2], 0.1) == [[]]


def test_a_combination_hands_each_learner_as_much_as_it_keeps():
    drafter, request = begun("recycling:successors=2:table=none+suffix", [1, 2])
    assert drafter.num_successors == 2
    wide = np.array([[3, 4, 5, 6]]), np.array([[0.5, 0.2, 0.1, 0.1]])
    drafter.learn("", np.array([1]), np.array([2]), *wide)
    assert drafter.parts[0].successors(request, [])[0][0] == 3
    assert begun("suffix+prompt_lookup", [1])[0].num_successors == 0


@pytest.mark.parametrize("salt", ["", "alice"])
def test_learning_stays_in_its_scope(salt):
    drafter, request = begun("recycling:table=none", [1, 2], salt)
    drafter.learn("bob", np.array([1]), np.array([2]), np.array([[3] * 8]), np.full((1, 8), 0.1))
    assert drafter.propose_chains([request], [2], 0.01) == [[]]
