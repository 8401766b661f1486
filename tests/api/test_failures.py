"""Requests that fail: what is raised, what `return_errors` gives instead, and who is told that it is over."""

from __future__ import annotations

import numpy as np
import pytest
from api_tools import facts, params

from outpace.config import EngineConfig
from outpace.errors import BadInputError, OutpaceError

CHAT = [{"role": "user", "content": "hello"}]


def after(count: int, error: BaseException):
    """A logits processor that raises once the text has `count` tokens."""

    def hook(token_ids, logits):
        if len(token_ids) >= count:
            raise error
        return logits

    return hook


@pytest.fixture
def idle(toy_llm):
    """The toy model, and a check that nothing was left in the engine."""
    yield toy_llm
    assert (toy_llm.engine.scheduler.running, list(toy_llm.engine.scheduler.waiting), toy_llm._jobs) == ([], [], {})


def test_a_failure_is_raised_with_its_cause(idle):
    cause = RuntimeError("the hook is broken")
    asked = params(20, logits_processors=(after(9, cause),))
    for call in (
        lambda: idle.generate("hello", asked),
        lambda: idle.chat(CHAT, asked),
        lambda: idle.generate(["abc", "hello"], [params(90), asked]),
        lambda: list(idle.stream("hello", asked)),
    ):
        with pytest.raises(OutpaceError, match=r"^the request failed: the hook is broken$") as caught:
            call()
        assert caught.value.__cause__ is cause


def test_a_bad_input_is_raised_as_it_is(idle):
    error = BadInputError("the grammar is too complex")
    with pytest.raises(BadInputError) as caught:
        idle.generate("hello", params(20, logits_processors=(after(9, error),)))
    assert caught.value is error


def test_ctrl_c_leaves_nothing(idle):
    hook = after(9, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        idle.generate(["hello", "abc"], params(20, logits_processors=(hook,)))
    with pytest.raises(KeyboardInterrupt):
        list(idle.stream("hello", params(20, logits_processors=(hook,))))
    assert len(idle.generate("hello", params(20))[0].token_ids) == 20


def test_return_errors_gives_every_output(idle):
    cause = RuntimeError("the hook is broken")
    asked = params(20, logits_processors=(after(9, cause),))
    bad, good = idle.generate(["hello", "abc"], [asked, params(20)], return_errors=True)
    assert (bad.finish_reason, bad.error, len(bad.token_ids)) == ("error", cause, 4)
    assert facts(good) == facts(idle.generate("abc", params(20))[0])
    assert idle.chat(CHAT, asked, return_errors=True)[0].error is cause
    pieces = list(idle.stream("hello", asked, return_errors=True))
    assert pieces[-1].output.error is cause
    assert "".join(piece.text for piece in pieces) == bad.text


def test_a_stream_gives_what_there_is_before_it_raises(idle):
    (whole,) = idle.generate("hello", params(20))
    pieces = []
    with pytest.raises(OutpaceError):
        pieces.extend(idle.stream("hello", params(20, logits_processors=(after(9, RuntimeError("broken")),))))
    assert "".join(piece.text for piece in pieces) == whole.text[:4]
    assert pieces[-1].finish_reason == "error"


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8}, {"temperature": 0.8, "top_k": 5}])
@pytest.mark.parametrize(("value", "message"), [(np.nan, "the logits are NaN"), (-np.inf, "no token can be chosen")])
@pytest.mark.parametrize("drafter", ["none", "prompt_lookup"])
def test_logits_without_a_choice_end_the_request(make_toy, options, value, message, drafter):
    llm = make_toy(drafter)
    forward = llm.target.forward

    def broken(batch, *rest):
        output = forward(batch, *rest)
        output.logits[:] = np.where(np.arange(output.logits.shape[1]) == 3, value, output.logits) if np.isnan(value) else value
        return output

    llm.target.forward = broken
    with pytest.raises(OutpaceError, match=message):
        llm.generate("abcabcabc", params(9, **options))
    assert llm._jobs == {}


# ---- streamers


class Streamer:
    """Writes down what it is told, and fails at a given call of `put`."""

    def __init__(self, fails_at: int = 99):
        self.calls: list[str] = []
        self.fails_at = fails_at

    def put(self, value) -> None:
        self.calls.append("put")
        if len(self.calls) == self.fails_at:
            raise RuntimeError("the reader went away")

    def end(self) -> None:
        self.calls.append("end")


def test_a_streamer_is_always_told_the_end(idle):
    streamer = Streamer()
    idle.generate("hello", params(5), streamer=streamer)
    assert streamer.calls.count("end") == 1
    assert streamer.calls[-1] == "end"
    broken = params(20, logits_processors=(after(9, RuntimeError("broken")),))
    for streamer, call in (
        (Streamer(), lambda s: idle.generate("hello", broken, streamer=s)),
        (Streamer(), lambda s: idle.chat(CHAT, broken, streamer=s)),
        (Streamer(fails_at=2), lambda s: idle.generate("hello", params(5), streamer=s)),
        (Streamer(), lambda s: idle.generate("", params(5), streamer=s)),
        (Streamer(), lambda s: idle.chat("hello", params(5), streamer=s)),
        (Streamer(), lambda s: idle.generate(["hello", "abc"], streamer=s)),
        (Streamer(), lambda s: idle.generate("hello", params(5, n=2), streamer=s)),
    ):
        with pytest.raises((OutpaceError, RuntimeError)):
            call(streamer)
        assert streamer.calls[-1] == "end"
        assert streamer.calls.count("end") == 1


# ---- drafters


@pytest.mark.usefixtures("real_defaults")
def test_a_drafter_that_fails_costs_speed_and_is_told(make_toy):
    llm = make_toy("api_tools:Failing")
    (plain,) = llm.generate("abcabcabc", params(20), speculative_config="none")
    (output,) = llm.generate("abcabcabc", params(20))
    assert facts(output) == facts(plain)
    assert (output.stats.drafter_error, plain.stats.drafter_error) == ("RuntimeError: secret detail", None)
    assert llm.engine.metrics.num_drafter_errors == 1
    with pytest.raises(RuntimeError, match="secret detail"):
        make_toy("api_tools:Failing", engine=EngineConfig(on_drafter_error="raise")).generate("abcabcabc")


@pytest.mark.parametrize("spec", ["auto", "draft_model:other", "auto:suffix+draft_model:other"])
def test_a_cache_too_small_to_measure_in_is_said(make_toy, spec):
    """`auto` and draft models measure forward passes behind a context; the cache may be small, or full of running requests."""
    llm = make_toy("suffix", toy={"kv_cache_tokens": 100})
    with pytest.raises(BadInputError, match=r"the K/V cache has no room for them: make it larger \(kv_cache_tokens\)") as caught:
        llm.generate("hello", params(5), speculative_config=spec)
    assert caught.value.field == "speculative_config"
    assert llm.target.cache == {}
    assert len(llm.generate("hello", params(5))[0].token_ids) == 5
