"""Drafters that look things up: the automaton against a search of the text, memory that stays in its scope, files, bounds, chances."""

import json
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.drafters.base import DrafterContext, tail, unseen
from outpace.drafters.recycling import FOLDS, NEW, SuccessorTable, likeliest
from outpace.drafters.spec import create_drafter
from outpace.drafters.suffix.answer_cache import AnswerMemory
from outpace.drafters.suffix.automaton import NO_MATCH, NUM_LATEST, NUM_REFRESHED, SuffixAutomaton
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.base import Capabilities, TargetOutput
from outpace.targets.toy import ToyTarget
from outpace.testing import make_request, run
from outpace.tree.draft import EMPTY_DRAFT, Draft, Verdict
from outpace.tree.unconfirmed import Unconfirmed

FEW = settings(deadline=None, derandomize=True, max_examples=60)
VOCAB_SIZE = 120
TEXTS = st.lists(st.integers(0, 3), max_size=40)


def begun(spec, prompt, scope="", drafter=None):
    """(drafter, request) with the request begun."""
    target = ToyTarget(vocab_size=VOCAB_SIZE)
    drafter = drafter or create_drafter(spec, DrafterContext(target))
    request = make_request(target, prompt, drafter=drafter)
    request.cache_salt = scope
    drafter.begin(request)
    return drafter, request


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
        levels = list(automaton.votes(match))
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
    assert next(automaton.votes(automaton.match))[0] == 5
    assert dict(list(automaton.votes(automaton.match))[-1][1]) == {3: 2, 4: 1}
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


# ---- suffix: memory


def answer(drafter, scope, tokens, reason="stop"):
    """A request that has answered with these tokens."""
    _, request = begun("", [99], scope, drafter=drafter)
    request.token_ids += tokens
    request.finish_reason = reason
    drafter.end(request)


def continued(drafter, scope, tokens):
    """What the drafter guesses after these tokens in a new request."""
    _, request = begun("", tokens, scope, drafter=drafter)
    found = list(drafter.propose(request, 3).token_ids)
    drafter.end(request)
    return found


def test_answers_are_remembered_in_their_scope_only():
    drafter, _ = begun("suffix:memory=100", [1])
    answer(drafter, "alice", [41, 42, 43, 44, 45])
    assert continued(drafter, "alice", [7, 41, 42]) == [43, 44, 45]
    assert continued(drafter, "bob", [7, 41, 42]) == []
    assert continued(drafter, "", [7, 41, 42]) == []
    answer(drafter, "bob", [41, 42, 50, 51])
    assert continued(drafter, "bob", [7, 41, 42]) == [50, 51]
    assert continued(drafter, "alice", [7, 41, 42]) == [43, 44, 45]
    assert "alice" not in repr(vars(drafter.memory))


def test_without_memory_nothing_is_remembered_and_aborted_answers_never_are():
    for spec, reason in (("suffix", "stop"), ("suffix:memory=100", "abort"), ("suffix:memory=100", "error"), ("suffix:memory=100", None)):
        drafter, _ = begun(spec, [1])
        answer(drafter, "", [41, 42, 43, 44, 45], reason)
        assert continued(drafter, "", [41, 42]) == []


@FEW
@given(answers=st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=12), most=st.integers(4, 60))
def test_the_oldest_answers_are_forgotten_first(answers, most):
    memory = AnswerMemory(most, 10)
    for one in answers:
        memory.add("", one)
        assert sum(text.num_tokens for text in memory.texts("")) <= most
    kept = [one for generation in next(iter(memory.scopes.values()), []) for one in generation.answers]
    shortened = [one[-(most // 2 - 1) :] for one in answers]
    assert kept == shortened[len(shortened) - len(kept) :]
    assert not answers or kept


def test_scopes_are_bounded():
    memory = AnswerMemory(20, 100, num_scopes=2)
    for scope in ("a", "b", "a", "c"):
        memory.add(scope, [1, 2, 3])
    assert [bool(memory.texts(scope)) for scope in "abc"] == [True, False, True]


def test_a_running_request_sees_answers_that_finish_meanwhile():
    drafter, request = begun("suffix:memory=40", [7, 41, 42])
    assert len(drafter.propose(request, 3)) == 0
    answer(drafter, "", [41, 42, 43, 44])
    assert list(drafter.propose(request, 1).token_ids) == [43]
    for i in range(10):  # generations come and go
        answer(drafter, "", [41, 42, 60 + i, *range(10)])
        assert drafter.propose(request, 1).token_ids[0] in (43, *range(60, 71))
    request.token_ids += [5]
    assert 6 in drafter.propose(request, 3).token_ids


# ---- suffix: files


def test_answers_survive_in_a_file(tmp_path):
    file = tmp_path / "answers.json"
    drafter, _ = begun(f"suffix:memory=100:file={file}", [1])
    answer(drafter, "alice", [41, 42, 43, 44])
    drafter.save()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "alice" not in file.read_text("utf-8")
    again, _ = begun(f"suffix:memory=100:file={file}", [1])
    assert continued(again, "alice", [41, 42]) == [43, 44]
    assert continued(again, "bob", [41, 42]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["answers.json"]


def damaged(**changes):
    good = {"format": "outpace answers", "version": 1, "vocab_size": VOCAB_SIZE, "scopes": {"x": [[1, 2]]}}
    return json.dumps({**good, **changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged: not JSON"),
        (damaged()[:-9], "damaged: not JSON"),
        ("[" * 100_000, "damaged: not JSON"),
        ("[]", "holds no answers"),
        (damaged(format="x"), "holds no answers"),
        (damaged(version=2), "reads version 1"),
        (damaged(vocab_size=5), "of a model with 5 tokens"),
        (damaged(scopes=[]), "no table of scopes"),
        (damaged(scopes={"x": 1}), "no table of scopes"),
        (damaged(scopes={"x": [[1, -1]]}), "no list of tokens"),
        (damaged(scopes={"x": [[1, 10**9]]}), "no list of tokens"),
        (damaged(scopes={"x": [[True]]}), "no list of tokens"),
        (damaged(scopes={"x": ["ab"]}), "no list of tokens"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "answers.json"
    file.write_text(content, "utf-8")
    drafter, _ = begun("suffix:memory=100", [1])
    answer(drafter, "", [41, 42, 43])
    for attempt in (lambda: drafter.load(file), lambda: begun(f"suffix:memory=100:file={file}", [1])):
        with pytest.raises(BadInputError) as caught:
            attempt()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert continued(drafter, "", [41, 42]) == [43]  # what was there is still there


def test_files_that_cannot_be_read_or_written(tmp_path):
    drafter, _ = begun("suffix:memory=100", [1])
    with pytest.raises(BadInputError, match="cannot read"):
        drafter.load(tmp_path / "missing")
    with pytest.raises(BadInputError, match="cannot write"):
        drafter.save(tmp_path / "no" / "folder")
    with pytest.raises(BadInputError, match="a path or file=PATH"):
        drafter.save()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="not JSON"):
        drafter.load(tmp_path / "binary")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInputError, match="cannot write"):
        drafter.save(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary", "folder"]
    with pytest.raises(BadInputError, match="needs memory=N"):
        create_drafter("suffix", DrafterContext(ToyTarget())).load(tmp_path / "binary")


@pytest.mark.parametrize(
    "spec", ["suffix:threshold=0", "suffix:memory=3", "suffix:memory=-1", "suffix:scopes=0", "suffix:file=x", "recycling:pairs=0"]
)
def test_wrong_options_are_refused(spec):
    with pytest.raises(BadInputError):
        create_drafter(spec, DrafterContext(ToyTarget()))


# ---- recycling


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
