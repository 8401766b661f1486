"""The text never changes: the end of the text at every offset of an accepted block (7 draft tokens and the bonus token)."""

from __future__ import annotations

import itertools

import pytest
from lossless_tools import MODES, PROMPTS, compare, everything, toy

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.params import SamplingParams
from outpace.testing import (
    generate,
    make_request,
    run,
)

OFFSETS = range(18)


@MODES
@pytest.mark.parametrize(("width", "period"), [(1, None), (2, None), (2, 3)])
def test_max_tokens_at_every_offset(params, width, period):
    for offset in OFFSETS:
        for request in compare(SamplingParams(**{**vars(params), "max_tokens": offset + 1}), width=width, period=period):
            assert request.num_output_tokens == offset + 1
            assert request.finish_reason == "length"
            if width == 1:
                assert request.stats.num_steps == -(-(offset + 1) // 8)  # full blocks were accepted


@MODES
@pytest.mark.parametrize("min_tokens", [0, 6])
def test_end_tokens_at_every_offset(params, min_tokens):
    """Every token of the plain text in turn is the end of sequence; min_tokens forbids it at first, position by position."""
    reasons = set()
    for offset in OFFSETS:
        end = generate(toy(), PROMPTS[:1], params)[0][offset]
        stopping = SamplingParams(**{**vars(params), "stop_token_ids": (end, 11), "min_tokens": min_tokens})
        for request in compare(stopping, lie=0.1 * (offset % 3), width=1 + offset % 2, period=3 if offset % 4 == 1 else None):
            reasons.add(request.finish_reason)
            assert request.num_output_tokens >= min_tokens
            assert request.finish_reason != "stop" or request.token_ids[-1] in (end, 11)
            assert not {end, 11} & set(request.output_token_ids[:-1])
    assert "stop" in reasons


@MODES
@pytest.mark.parametrize(("width", "period"), [(1, None), (2, 3)])
def test_stop_strings_at_every_offset(params, width, period):
    for offset in OFFSETS:
        told = []

        def make_stop(offset=offset, told=told):
            told.append([])
            mine = told[-1]
            return lambda token: mine.append(token) or len(mine) > offset

        for request in compare(params, make_stop, width=width, period=period):
            assert (request.num_output_tokens, request.finish_reason) == (offset + 1, "stop")
        assert told[:3] == told[3:]  # every committed token is told once, in order, and none after the stop
        assert all(len(tokens) == offset + 1 for tokens in told)


def stop_after(num_tokens):
    """A stop check that holds at the last of so many tokens."""
    left = itertools.count(1)
    return lambda token: next(left) == num_tokens


PROBING = ["lookahead", "lookahead:window=5:ngram=4", "blanks", "blanks:after=every:branches=2", "lookahead+blanks:after=end"]


@MODES
@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize("spec", PROBING)
def test_probes_and_every_end_at_every_offset(spec, period, params):
    """Length, end token and stop string at each place of the text, with probes in the pass until the last one."""
    target = toy(period)
    drafter = create_drafter(spec, DrafterContext(target))
    longest = generate(target, PROMPTS[:1], params)[0]
    for offset in OFFSETS:
        ends = [
            ({"max_tokens": offset + 1}, lambda: None),
            ({"stop_token_ids": (longest[offset], 11)}, lambda: None),
            ({}, lambda offset=offset: stop_after(offset + 1)),
        ]
        for change, make_stop in ends:
            ended = SamplingParams(**{**vars(params), **change})
            plain = [make_request(target, p, ended, seed=i, stop_check=make_stop()) for i, p in enumerate(PROMPTS)]
            fast = [make_request(target, p, ended, drafter, seed=i, stop_check=make_stop()) for i, p in enumerate(PROMPTS)]
            assert [everything(r) for r in run(target, fast)] == [everything(r) for r in run(target, plain)]
            assert any(r.num_output_tokens <= offset + 1 for r in fast)


def test_a_stop_string_waits_for_min_tokens():
    params = SamplingParams(max_tokens=20, min_tokens=9)
    for request in compare(params, lambda: lambda token: True):
        assert (request.num_output_tokens, request.finish_reason) == (9, "stop")
