"""The suffix automaton, and what drafters read of a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_tools import FEW, begun

from outpace.drafters.base import DrafterContext, tail, unseen
from outpace.drafters.spec import create_drafter
from outpace.drafters.suffix.automaton import NO_MATCH, NUM_LATEST, NUM_REFRESHED, SuffixAutomaton
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request, run
from outpace.tree.unconfirmed import Unconfirmed

TEXTS = st.lists(st.integers(0, 3), max_size=40)


# ---- the automaton


def occurrences(text, part):
    return [end for end in range(len(part), len(text) + 1) if text[end - len(part) : end] == part]


def longest_suffix(tokens, text):
    """Tokens at the end of `tokens` that occur in the text."""
    return next(n for n in range(len(tokens), -1, -1) if n == 0 or occurrences(text, tokens[-n:]))


@FEW
@given(text=TEXTS, path=TEXTS)
def test_the_automaton_finds_what_a_search_finds(text, path):
    automaton = SuffixAutomaton()
    automaton.extend(text)
    matched = next((n for n in range(len(text) - 1, 0, -1) if len(occurrences(text, text[-n:])) > 1), 0)
    assert automaton.match[1] == matched
    tokens = text[len(text) - matched :]
    match = automaton.match
    for token in path:
        tokens.append(token)
        match = automaton.walk(match, [token])
        tokens = tokens[len(tokens) - longest_suffix(tokens, text) :]
        assert match[1] == len(tokens)
        levels = automaton.votes(match)
        assert [n for n, _ in levels] == sorted({n for n, _ in levels}, reverse=True)
        for n, votes in levels:
            suffix = tokens[-n:]
            latest = {text[end]: end for end in occurrences(text, suffix) if end < len(text)}
            assert [t for t, _ in votes] == sorted(latest, key=latest.get, reverse=True)
            exact = {t: len([end for end in occurrences(text, suffix) if text[end : end + 1] == [t]]) for t in latest}
            assert all(1 <= count <= exact[t] for t, count in votes)


@FEW
@given(text=TEXTS, more=TEXTS, path=TEXTS)
def test_a_match_survives_a_growing_text(text, more, path):
    """What another request's answer adds in between must not spoil a place found before."""
    automaton, tokens = SuffixAutomaton(), list(path)
    automaton.extend(text)
    match = automaton.walk(NO_MATCH, path)
    known = tokens[len(tokens) - match[1] :]
    automaton.extend(more)
    for token in path:
        match = automaton.walk(match, [token])
        known = [*known, token]
        known = known[len(known) - longest_suffix(known, text + more) :]
        assert match[1] == len(known)


def test_counts_are_exact_where_few_suffixes_occurred_before():
    automaton = SuffixAutomaton()
    automaton.extend([1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2])
    assert automaton.votes(automaton.match)[0][0] == 5
    assert dict(automaton.votes(automaton.match)[-1][1]) == {3: 2, 4: 1}
    assert NUM_REFRESHED > 5


@pytest.mark.parametrize("text", [[1] * 3000, [1, 2] * 1500, [*range(1, 1500)] * 2], ids=["one token", "a pair", "a copy"])
def test_memory_and_votes_are_bounded(text):
    automaton = SuffixAutomaton()
    automaton.extend(text)
    assert len(automaton.link) <= 2 * len(text) + 1
    assert sum(map(len, automaton.following)) <= 3 * len(text)
    assert all(len(votes) <= NUM_LATEST for _, votes in automaton.votes(automaton.match))


# ---- what drafters read of a request


@FEW
@given(token_ids=st.lists(st.integers(0, 9), min_size=1), unconfirmed=TEXTS, path=TEXTS, n=st.integers(0, 60))
def test_the_end_and_the_new_part_of_a_context(token_ids, unconfirmed, path, n):
    _, request = begun("none", token_ids)
    request.unconfirmed = Unconfirmed(unconfirmed)
    whole = request.context + path
    assert tail(request, n, path) == whole[max(0, len(whole) - n) :]
    assert unseen(request, min(n, len(request.context))) == request.context[n:]


@pytest.mark.parametrize("spec", ["prompt_lookup", "suffix", "recycling", "suffix:memory=100"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_node_has_a_chance_and_its_siblings_share_one(spec, temperature):
    target, drafts = ToyTarget(sharpness=3.0), []
    drafter = create_drafter(spec, DrafterContext(target))
    propose = drafter.propose
    drafter.propose = lambda request, budget: drafts.append(propose(request, budget)) or drafts[-1]
    for _ in range(2):
        run(target, [make_request(target, [1, 2, 3, 1, 2, 3, 1], SamplingParams(temperature=temperature, max_tokens=40), drafter)])
    assert sum(map(len, drafts)) > 40
    for draft in drafts:
        assert len(draft.confidences) == len(draft)
        assert all(0 < confidence <= 1 for confidence in draft.confidences)
        for children in draft.children().values():
            assert sum(draft.confidences[node] for node in children.values()) <= 1.0 + 1e-6


@pytest.mark.parametrize("spec", ["prompt_lookup", "suffix"])
def test_successors_follow_the_path(spec):
    drafter, request = begun(spec, [5, 6, 7, 8, 9, 5, 6, 1, 2])
    drafter.prepare([request])
    assert not drafter.successors(request, [])
    assert drafter.successors(request, [5, 6])[0][0] in (7, 1)
    assert [token for token, _ in drafter.successors(request, [6, 7])] == [8]
    assert [token for token, _ in drafter.successors(request, [6, 7, 8])] == [9]
    confidences = [confidence for _, confidence in drafter.successors(request, [5, 6])]
    assert confidences == sorted(confidences, reverse=True)
    assert drafter.successors(request, [5, 6, 7])[0][1] > drafter.successors(request, [7])[0][1]  # a longer match is trusted more
