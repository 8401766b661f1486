"""Stop strings: the text ends before the first that is complete, and nothing given out is taken back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_tools import MAN, byte_level, stream

from outpace.models.tokenizer import TextBuilder


def built(text: str, *stop: str, min_tokens: int = 0) -> TextBuilder:
    builder = TextBuilder(byte_level(), stop, min_tokens)
    stream(builder, byte_level().encode(text))
    return builder


def one_byte_tokens(text: str) -> list[int]:
    """The bytes of a text as one token each."""
    table = {token_id: text for text, token_id in byte_level().fast.get_vocab().items()}
    alphabet = {byte_level().fast.decode([i]): i for i, name in table.items() if len(name) == 1}
    return [alphabet[letter] for letter in text]


# ---- stop strings


@pytest.mark.parametrize(
    ("text", "stop", "want"),
    [
        ("the quick brown fox", [" brown"], "the quick"),
        ("the quick brown fox", ["ck bro"], "the qui"),  # begins and ends inside tokens
        ("the quick brown fox", ["the"], ""),
        ("the quick brown fox", ["fox"], "the quick brown "),
        ("the quick brown fox", ["foxes", "x!"], "the quick brown fox"),
        ("the quick brown fox", ["brown", "quick"], "the "),  # the first in the text, not in the list
        ("the quick brown fox", ["quick brown", "uick"], "the q"),  # the first that is complete
        ("aaab", ["aab"], "a"),  # a false start
        ("ababac", ["abac"], "ab"),
        ("one\n\ntwo", ["\n\n"], "one"),
        (f"x{MAN}y", [MAN], "x"),
        (f"x{MAN}y", [MAN[-1]], f"x{MAN[:-1]}"),
        ("x😁😀y", ["😀"], "x😁"),  # shares three bytes of four with the one before
    ],
)
def test_stop_strings(text, stop, want):
    token_ids = byte_level().encode(text)
    builder = TextBuilder(byte_level(), stop)
    pieces = stream(builder, token_ids)
    assert builder.text == builder.finish() == "".join(pieces) == "".join(builder.pieces) == want
    assert builder.is_stopped == (want != text)
    assert byte_level().decode(builder.token_ids).startswith(want)
    assert len(builder.pieces) == len(builder.token_ids)


def test_a_stop_string_over_many_tokens_is_told_at_its_last_one():
    builder = TextBuilder(byte_level(), ["stop"])
    told = [builder.feed(token) for token in one_byte_tokens("a stop!")[:6]]
    assert told == [False] * 5 + [True]
    assert builder.text == "a "
    assert builder.pieces == ["a", " ", "", "", "", ""]


@pytest.mark.parametrize(
    ("min_tokens", "want"),
    [(0, "a"), (2, "a"), (3, "axb"), (4, "axb"), (5, "axbxc"), (6, "axbxc"), (7, "axbxcxd")],
)
def test_stop_strings_count_once_min_tokens_are_out(min_tokens, want):
    builder = TextBuilder(byte_level(), ["x"], min_tokens)
    stream(builder, one_byte_tokens("axbxcxd"))
    assert builder.text == want
    assert builder.is_stopped == (want != "axbxcxd")


def test_a_stop_string_may_begin_before_min_tokens_but_not_end_there():
    for min_tokens, want in ((4, "ab"), (5, "abcdef")):
        builder = TextBuilder(byte_level(), ["cd"], min_tokens)
        stream(builder, one_byte_tokens("abcdef"))
        assert builder.text == want


STOPS = st.lists(st.text("ab😀", min_size=1, max_size=4), max_size=3)


@settings(deadline=None, max_examples=200)
@given(st.text("ab😀", max_size=25), STOPS)
def test_the_text_ends_before_the_first_stop_string_that_is_complete(text, stop):
    token_ids, want = byte_level().encode(text), text
    for end in range(1, len(token_ids) + 1):
        so_far = byte_level().decode(token_ids[:end]).rstrip("\ufffd")
        places = [so_far.find(s) for s in stop if s in so_far]
        if places:
            want = so_far[: min(places)]
            break
    builder = built(text, *stop)
    assert builder.text == want
    assert builder.is_stopped == any(s in text for s in stop)
    assert not any(s in builder.text for s in stop)


@settings(deadline=None, max_examples=200)
@given(st.text("ab😀 ", max_size=25), STOPS, st.integers(0, 12))
def test_what_was_given_out_is_never_taken_back(text, stop, min_tokens):
    builder = TextBuilder(byte_level(), stop, min_tokens)
    given_out = ""
    for token in byte_level().encode(text):
        is_stopped = builder.feed(token)
        now = builder.text[: builder.num_streamable]
        assert now.startswith(given_out)
        assert len(builder.text) - len(now) <= max((len(s) - 1 for s in stop), default=0)  # no more is held back than needed
        given_out = now
        if is_stopped:
            break
    assert builder.finish().startswith(given_out)
    assert "".join(builder.pieces) == builder.text
    assert len(builder.pieces) == len(builder.token_ids)


def test_only_a_possible_start_of_a_stop_string_is_held_back():
    builder = TextBuilder(byte_level(), ["stop", "top secret"])
    seen = []
    for token in one_byte_tokens("a sto to"):
        builder.feed(token)
        seen.append(builder.text[: builder.num_streamable])
    assert seen == ["a", "a ", "a ", "a ", "a ", "a sto ", "a sto ", "a sto "]
    assert builder.finish() == "a sto to"
