"""A text that runs in circles is recognised by its tokens."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.bench.looping import MAX_PERIOD, is_looping


@pytest.mark.parametrize("period", [1, 2, 7, 13, 40, MAX_PERIOD])
def test_a_loop_at_the_end(period):
    text = list(range(1000, 1030))
    loop = list(range(period))
    needed = max(40, 3 * period)
    looping = (loop * 60)[-needed:]
    assert is_looping(text + looping)
    assert is_looping(looping)
    assert is_looping([*text, *looping, 7777])  # the end token
    assert not is_looping(text + looping[1:])
    assert not is_looping([*text, *looping, 7777, 7778])
    changed = [*text, *looping]
    changed[-5] = 7777
    assert not is_looping(changed)


def test_what_is_no_loop():
    assert not is_looping([])
    assert not is_looping([1])
    assert not is_looping([5] * 39)
    assert is_looping([5] * 40)
    assert not is_looping(list(range(20)) * 2 + list(range(10)))  # not 3 periods
    assert not is_looping(list(range(MAX_PERIOD + 1)) * 3)  # a long text said three times
    assert not is_looping([token for number in range(30) for token in (1, 2, number, 3)])  # a table: each row is new


@given(st.lists(st.integers(0, 3), max_size=200))
def test_it_agrees_with_the_definition(tokens):
    def loops(token_ids: list[int]) -> bool:
        return any(
            token_ids[-n:] == (token_ids[-n : -n + period] * n)[:n]
            for period in range(1, 20)
            for n in [max(40, 3 * period)]
            if len(token_ids) >= n
        )

    assert is_looping(tokens) == (loops(tokens) or loops(tokens[:-1]))


def test_random_texts_do_not_loop():
    source = random.Random(0)
    assert not any(is_looping([source.randrange(3) for _ in range(300)]) for _ in range(100))
