"""The drafter suffix: what it remembers of answers, in whose scope, and its files."""

import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_tools import FEW, VOCAB_SIZE, begun

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.drafters.suffix.answer_cache import AnswerMemory
from outpace.drafters.suffix.drafter import trust_in
from outpace.errors import BadInputError
from outpace.targets.toy import ToyTarget


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


def test_what_is_remembered_of_trusts_is_bounded():
    """Lengths and counts grow without end in a process that serves for weeks."""
    found = {trust_in(matched, 3, 2) for matched in range(1, 40_000)}
    assert len(found) < 20
    assert trust_in.cache_info().currsize <= 1 << 14
