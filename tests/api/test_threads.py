"""An LLM that several threads use, that a fork inherits, and that is closed."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_tools import facts, params

from outpace.config import EngineConfig
from outpace.errors import OutpaceError
from outpace.llm import LLM

PROMPTS = ["hello hello", "abcabcabc", "x", "one, two, three, ", "a b a b a b"]


def asked(number: int):
    return params(20 + 5 * number, temperature=0.8 * (number % 2), seed=number, logprobs=1)


def test_threads_get_what_they_get_alone(make_toy):
    llm = make_toy(engine=EngineConfig(max_num_seqs=3))
    cases = [(prompt, asked(number)) for number, prompt in enumerate(PROMPTS * 4)]
    alone = [facts(llm.generate(*case)[0]) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        together = [facts(output) for (output,) in pool.map(lambda case: llm.generate(*case), cases)]
    assert together == alone
    assert llm._jobs == {}


def test_a_second_thread_joins_the_batch_at_once(make_toy):
    """It waits for a step, not for the other thread's whole answer: the lock is fair."""
    llm, has_begun = make_toy("none"), threading.Event()
    forward, sizes = llm.target.forward, []

    def recorded(batch, *rest):
        sizes.append(len(batch))
        has_begun.set()
        time.sleep(0.002)  # else a busy machine ends the first answer before the second begins
        return forward(batch, *rest)

    llm.target.forward = recorded
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(llm.generate, PROMPTS[0], params(300, ignore_eos=True))
        assert has_begun.wait(20)
        llm.generate(PROMPTS[1], params(20, ignore_eos=True))
        assert not first.done()
        first.result(20)
    assert sizes.count(2) >= 20


def test_threads_stream_at_once(toy_llm):
    """Each thread gets pieces while the other one is in the middle of its stream."""
    wants = [toy_llm.generate(prompt, params(60))[0].text for prompt in PROMPTS[:2]]
    both_began = threading.Barrier(2, timeout=20)

    def stream(prompt: str) -> str:
        text = ""
        for number, piece in enumerate(toy_llm.stream(prompt, params(60))):
            text += piece.text
            if number == 0:
                both_began.wait()
        return text

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(stream, PROMPTS[:2])) == wants
    assert toy_llm._jobs == {}


def test_a_failing_thread_touches_no_other(toy_llm):
    def broken(token_ids, logits):
        raise RuntimeError("broken")

    (want,) = toy_llm.generate("hello", params(150))
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(toy_llm.generate, "hello", params(150))
        bad = [pool.submit(toy_llm.generate, "hello", params(5, logits_processors=(broken,))) for _ in range(5)]
        assert facts(good.result()[0]) == facts(want)
        assert all(isinstance(each.exception(), OutpaceError) for each in bad)


def test_a_logits_processor_cannot_call_its_llm(toy_llm):
    def nested(token_ids, logits):
        toy_llm.generate("abc", params(2))
        return logits

    with pytest.raises(OutpaceError, match="called the LLM that is running it"):
        toy_llm.generate("hello", params(3, logits_processors=(nested,)))
    assert toy_llm.generate("hello", params(3))


def test_a_stream_collected_inside_a_step_is_freed_in_the_next(toy_llm):
    """The garbage collector may end a forgotten stream while the same thread holds the lock."""
    holder: list = [toy_llm.stream("abc", params(50))]
    next(holder[0])

    def collect(token_ids, logits):
        holder.clear()
        gc.collect()
        return logits

    toy_llm.generate("hello", params(5, logits_processors=(collect,)))
    assert toy_llm._jobs == {}
    assert not toy_llm.engine.has_unfinished


# ---- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_to_make_its_own(toy_llm):
    toy_llm.generate("hello", params(3))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        try:
            toy_llm.generate("hello", params(3))
            message = "no error"
        except OutpaceError as error:
            message = str(error)
        except BaseException as error:
            message = repr(error)
        toy_llm.close()  # changes nothing
        os.write(writer, message.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert "create the LLM in the process that uses it" in answer.read()
    assert toy_llm.generate("hello", params(3))


# ---- close


def test_a_closed_llm_says_so(make_toy):
    with make_toy() as llm:
        assert isinstance(llm, LLM)
        stream = llm.stream("hello", params(50))
        next(stream)
        (job,) = llm.submit_all("hello")
        target = llm.target
    assert target.cache == {}
    for call in (
        lambda: llm.generate("hello"),
        lambda: llm.chat([{"role": "user", "content": "hello"}]),
        lambda: next(llm.stream("hello")),
        lambda: llm.submit("hello", prediction="abc"),
        lambda: llm.strategy("none"),
        lambda: next(stream),
        llm.step,
    ):
        with pytest.raises(OutpaceError, match="this LLM is closed"):
            call()
    llm.abort(job)
    llm.close()


def test_a_closed_llm_has_released_its_model(make_toy):
    llm = make_toy("prompt_lookup+suffix")
    llm.generate("hello", params(5))
    model = weakref.ref(llm.target)
    llm.close()
    gc.collect()
    assert model() is None


def test_closing_while_another_thread_generates(make_toy):
    llm, has_begun = make_toy(), threading.Event()

    def hook(token_ids, logits):
        has_begun.set()
        return logits

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(llm.generate, "hello", params(300, ignore_eos=True, logits_processors=(hook,)))
        assert has_begun.wait(20)
        llm.close()
        with pytest.raises(OutpaceError, match="closed"):
            running.result(20)
