"""Texts to train on: read in every form, chosen without loops, and held out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.errors import BadInputError

torch = pytest.importorskip("torch")


from toy_training import TOKENIZER, VOCAB

from outpace.training.data import answers
from outpace.training.data import texts as data
from outpace.training.data.texts import Text


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- reading


def test_every_form_of_a_text_is_read(tmp_path):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = lines(
        tmp_path / "a.jsonl",
        {"id": "tokens", "prompt_ids": [1, 2], "token_ids": [3, 4, 5]},
        {"id": "chat", "messages": chat},
        {"id": "pair", "prompt": "hi", "completion": "hello"},
        {"id": "plain", "text": "abcdefghij"},
    )
    texts = data.read_texts(path, TOKENIZER, VOCAB, max_tokens=4)
    assert texts[0] == Text("tokens", [1, 2], [3, 4, 5])
    hi, hello = TOKENIZER.encode("hi"), TOKENIZER.encode("hello")
    assert [(t.id, t.prompt_ids, t.token_ids) for t in texts[1:3]] == [("chat", hi, hello[:4]), ("pair", hi, hello[:4])]
    whole = TOKENIZER.encode("abcdefghij")
    assert [t.prompt_ids + t.token_ids for t in texts[3:]] == [whole[:5], whole[5:]]
    assert len({t.id for t in texts}) == len(texts)


def test_a_plain_file_is_texts_or_prompts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree\n\nfour")
    texts = data.read_texts(path, TOKENIZER, VOCAB, max_tokens=6)
    assert [token for t in texts for token in t.prompt_ids + t.token_ids] == TOKENIZER.encode("one two\nthree\n\nfour")
    assert max(len(t.token_ids) for t in texts) == 6
    assert [p.messages[0]["content"] for p in data.read_prompts(path, TOKENIZER)] == ["one two\nthree", "four"]


def test_the_answer_is_no_part_of_a_prompt(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = lines(tmp_path / "a.jsonl", {"messages": turns}, {"question_id": 7, "turns": ["x", "y"]}, {"id": 7, "prompt": "z"})
    assert [(p.id, p.messages) for p in data.read_prompts(path, TOKENIZER)] == [
        ("1", turns[:1]),
        ("7", [{"role": "user", "content": "x"}]),
        ("7#2", [{"role": "user", "content": "z"}]),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi"}, "a.jsonl:1: there is no answer; use --generate to let the model write it"),
        ({"prompt_ids": [1], "token_ids": "x"}, "a.jsonl:1: token_ids must be a list of token ids"),
        ({"prompt_ids": [1], "token_ids": [VOCAB]}, "text '1' has no prompt, or a token outside"),
        ({"prompt_ids": [], "token_ids": [1]}, "text '1' has no prompt, or a token outside"),
        ({"other": 1}, "needs a non-empty 'prompt'"),
    ],
)
def test_wrong_texts_are_one_clear_line(tmp_path, row, message):
    with pytest.raises(BadInputError, match=message):
        data.read_texts(lines(tmp_path / "a.jsonl", row), TOKENIZER, VOCAB, 8)


# ---- choosing


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(4, 12))
def test_loops_are_seen(loop, times):
    text = (loop * times)[: max(48, 4 * len(loop))]
    assert data.is_repetitive(text) == (len(text) >= data.LOOP_MIN_TOKENS and len(text) >= 3 * len(loop))


def test_ordinary_answers_are_no_loops():
    text = "the quick brown fox jumps over the lazy dog and then it goes home to sleep until the next day comes"
    assert not data.is_repetitive(TOKENIZER.encode(text))
    assert not data.is_repetitive([1] * (data.LOOP_MIN_TOKENS - 1))


def test_what_is_dropped_is_counted_and_the_order_is_that_of_the_ids():
    rng = np.random.default_rng(0)
    good = [Text(str(i), [1], rng.integers(0, 30, 40).tolist()) for i in range(20)]
    bad = [Text("loop", [1], [1, 2] * 30), Text("short", [1], [2]), Text("long", [1] * 90, [2] * 40)]
    kept, counts = data.choose([*good, *bad], max_len=100)
    again, _ = data.choose([*bad, *reversed(good)], max_len=100)
    assert kept == again
    assert {text.id for text in kept} == {text.id for text in good}
    assert (counts.num_kept, counts.num_looping, counts.num_short, counts.num_long) == (20, 1, 1, 1)
    with pytest.raises(BadInputError, match="too little to train on: 1 texts; dropped: 1 looping, 1 too short, 1 too long"):
        data.choose([good[0], *bad], 100)


@given(st.sets(st.text(max_size=8), min_size=1, max_size=200), st.sets(st.text(max_size=8), max_size=50))
def test_held_out_texts_stay_held_out(ids, more):
    apart = data.held_out(sorted(ids))
    assert apart
    assert apart <= ids
    if len(apart) > 1:
        assert apart <= data.held_out(sorted(ids | more))


# ---- answers on disk


def test_a_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert answers.answered(path) == set()
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n{"id": "c", "tok')
    assert answers.answered(path) == {"a", "b"}
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n'
    path.write_bytes(b'{"id": "a"}\nnonsense\n')
    with pytest.raises(BadInputError, match="is damaged"):
        answers.answered(path)
