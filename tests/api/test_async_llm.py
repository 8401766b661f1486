"""AsyncLLM: several coroutines at once, abort, cancellation, errors, close."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_tools import facts, params
from server_tools import is_empty, slow_down

from outpace import AsyncLLM
from outpace.async_llm import GenerationJob
from outpace.config import EngineConfig
from outpace.errors import BadInputError, OutpaceError
from outpace.params import StructuredOutput

PROMPTS = ["hello hello", "abcabcabc", "x", "one, two, three, ", "a b a b a b"]
TALK = [{"role": "user", "content": "hello"}]


async def collect(llm: AsyncLLM, *args, **options):
    """The text of a stream and its last piece."""
    text, last = "", None
    async for piece in llm.generate(*args, **options):
        text, last = text + piece.text, piece
    return text, last


async def until(condition, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def endless(**options):
    return params(300, ignore_eos=True, **options)


def test_several_at_once_get_what_they_get_alone(make_toy):
    llm = make_toy(engine=EngineConfig(max_num_seqs=3))
    cases = [(prompt, params(30, temperature=0.8 * (i % 2), seed=i, logprobs=1)) for i, prompt in enumerate(PROMPTS * 3)]
    wants = [facts(llm.generate(*case)[0]) for case in cases]

    async def scenario():
        async with AsyncLLM(llm) as engine:
            return await asyncio.gather(*(collect(engine, *case) for case in cases))

    found = asyncio.run(scenario())
    assert [facts(last.output) for _, last in found] == wants
    assert [text for text, _ in found] == [want[0] for want in wants]
    assert is_empty(llm)


def test_texts_tokens_conversations_dicts_and_several_answers(toy_llm):
    ids = toy_llm.tokenizer.encode("hello")
    asked = {"max_tokens": 12, "temperature": 0.8, "seed": 5}
    (want,) = toy_llm.generate("hello", asked)
    wants = toy_llm.generate("hello", {**asked, "n": 3})

    async def scenario():
        async with AsyncLLM(toy_llm) as engine:
            for prompt in ("hello", ids, tuple(ids), ["hello"], TALK):
                _, last = await collect(engine, prompt, asked, speculative_config="suffix", prediction="abc", cache_salt="me")
                assert facts(last.output) == facts(want)
            outputs = {}
            async for piece in engine.generate("hello", {**asked, "n": 3}):
                if piece.output is not None:
                    outputs[piece.index] = piece.output
            assert [facts(outputs[index]) for index in range(3)] == [facts(each) for each in wants]

    asyncio.run(scenario())
    assert is_empty(toy_llm)


def test_abort_ends_a_request_where_it_is(toy_llm):
    slow_down(toy_llm, 0.005)

    async def scenario():
        async with AsyncLLM(toy_llm) as engine:
            pieces = []
            async for piece in engine.generate("hello", endless(n=2), request_id="mine"):
                pieces.append(piece)
                if len(pieces) == 3:
                    await engine.abort("mine")
            assert [piece.finish_reason for piece in pieces[-2:]] == ["abort", "abort"]
            assert all(piece.output is not None and len(piece.output.token_ids) < 300 for piece in pieces[-2:])
            for piece in pieces[-2:]:
                assert piece.output.text == "".join(each.text for each in pieces if each.index == piece.index)
            await engine.abort("mine")  # it is gone
            await engine.abort("nobody's")
            assert is_empty(toy_llm)
            assert (await collect(engine, "hello", params(3), request_id="mine"))[1].output is not None

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["cancel", "break", "aclose"])
def test_leaving_the_iteration_frees_the_slot(toy_llm, how):
    slow_down(toy_llm, 0.005)

    async def leave(engine: AsyncLLM) -> None:
        if how == "break":
            async for _ in engine.generate("hello", endless()):
                break
        elif how == "aclose":
            async with contextlib.aclosing(engine.generate("hello", endless())) as pieces:
                await anext(pieces)
        else:
            task = asyncio.create_task(collect(engine, "hello", endless()))
            await until(lambda: toy_llm.engine.scheduler.running)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def scenario():
        async with AsyncLLM(toy_llm) as engine:
            await leave(engine)
            await until(lambda: is_empty(toy_llm))
            assert engine.handles == {}

    asyncio.run(scenario())


def test_errors_are_raised_in_the_iterator(toy_llm):
    def broken(token_ids, logits):
        if len(token_ids) > 9:
            raise cause
        return logits

    cause: Exception = RuntimeError("the hook is broken")
    (want,) = toy_llm.generate("abc", params(40))

    async def scenario():
        nonlocal cause
        async with AsyncLLM(toy_llm) as engine:
            beside = asyncio.create_task(collect(engine, "abc", params(40)))
            with pytest.raises(OutpaceError, match="the request failed: the hook is broken") as caught:
                await collect(engine, "hello", params(20, logits_processors=(broken,), n=2))
            assert caught.value.__cause__ is cause
            cause = BadInputError("too complex")
            with pytest.raises(BadInputError, match="too complex"):
                await collect(engine, "hello", params(20, logits_processors=(broken,)))
            assert facts((await beside)[1].output) == facts(want)

    asyncio.run(scenario())
    assert is_empty(toy_llm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "the prompt is empty"),
        ((b"hello",), "prompts must be"),
        ((None,), "prompts must be"),
        ((["hello", "abc"],), "takes one prompt"),
        (([{"role": "user"}],), "needs a 'role' and a 'content'"),
        (("hello", {"max_token": 5}), "no parameter 'max_token'"),
        (("hello", [params(5)]), "sampling_params must be"),
        (("hello", params(5, structured=StructuredOutput("regex", "("))), "structured output cannot use this model's tokenizer"),
        (("a" * 400,), "the prompt has 400 tokens"),
    ],
)
def test_bad_input_is_raised_in_the_iterator(toy_llm, arguments, message):
    async def scenario():
        async with AsyncLLM(toy_llm) as engine:
            with pytest.raises(BadInputError, match=message):
                await collect(engine, *arguments)
            with pytest.raises(BadInputError):
                await collect(engine, "hello", speculative_config="magic")
            return engine.handles

    assert asyncio.run(scenario()) == {}
    assert is_empty(toy_llm)


def test_one_request_id_at_a_time(toy_llm):
    slow_down(toy_llm, 0.005)

    async def scenario():
        async with AsyncLLM(toy_llm) as engine:
            first = asyncio.create_task(collect(engine, "hello", params(20), request_id="mine"))
            await until(lambda: engine.handles)
            for wrong in ("mine", 5):
                with pytest.raises(BadInputError, match="request_id"):
                    await collect(engine, "hello", params(20), request_id=wrong)
            assert "mine" in engine.handles
            assert (await first)[1].output is not None

    asyncio.run(scenario())


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(toy_llm, caplog):
    forward, is_broken = toy_llm.target.forward, True

    def breaks(*args):
        if is_broken:
            raise RuntimeError("secret detail")
        return forward(*args)

    toy_llm.target.forward = breaks

    async def scenario():
        nonlocal is_broken
        async with AsyncLLM(toy_llm) as engine:
            with pytest.raises(OutpaceError, match="a step of the engine failed"):
                await collect(engine, "hello", params(5))
            is_broken = False
            assert (await collect(engine, "hello", params(5)))[1].output is not None

    asyncio.run(scenario())
    assert "secret detail" in caplog.text


def test_an_engine_that_dies_says_so(toy_llm):
    def broken(*_):
        raise RuntimeError("secret detail")

    toy_llm.target.forward = toy_llm.abort = broken

    async def scenario():
        engine = AsyncLLM(toy_llm)
        with pytest.raises(OutpaceError, match="the engine has stopped"):
            await collect(engine, "hello", params(5))
        with pytest.raises(OutpaceError, match="the engine has stopped"):
            await collect(engine, "hello", params(5))
        assert engine.is_dead
        await engine.close()

    asyncio.run(scenario())


def test_close_ends_what_runs(toy_llm):
    slow_down(toy_llm, 0.005)

    async def scenario():
        engine = AsyncLLM(toy_llm)
        running = [asyncio.create_task(collect(engine, prompt, endless())) for prompt in PROMPTS[:3]]
        await until(lambda: len(toy_llm.engine.scheduler.running) == 3)
        await engine.close()
        for task in running:
            with pytest.raises(OutpaceError, match="the AsyncLLM was closed"):
                await task
        with pytest.raises(OutpaceError, match="the AsyncLLM was closed"):
            await collect(engine, "hello")
        await engine.close()

    asyncio.run(scenario())
    assert is_empty(toy_llm)
    assert toy_llm.generate("hello", params(3))  # it was passed in: it stays open


def test_an_llm_that_was_built_here_is_closed_here(make_toy):
    make_toy()  # from here on LLM(...) is a toy

    async def scenario():
        async with AsyncLLM("toy", "blind", num_draft_tokens=2) as engine:
            assert (await collect(engine, "hello", params(3)))[1].output.drafter == "blind"
        return engine.llm

    llm = asyncio.run(scenario())
    with pytest.raises(OutpaceError, match="this LLM is closed"):
        llm.generate("hello")
    with pytest.raises(BadInputError, match="brings its own settings"):
        AsyncLLM(make_toy(), "blind")


def test_threads_may_use_the_llm_beside_it(toy_llm):
    want = [facts(toy_llm.generate(prompt, params(60))[0]) for prompt in PROMPTS]

    async def scenario():
        async with AsyncLLM(toy_llm) as engine:
            with ThreadPoolExecutor(3) as pool:
                loop = asyncio.get_running_loop()
                threads = [loop.run_in_executor(pool, toy_llm.generate, prompt, params(60)) for prompt in PROMPTS]
                found = await asyncio.gather(*(collect(engine, prompt, params(60)) for prompt in PROMPTS))
                return [facts(last.output) for _, last in found], [facts((await thread)[0]) for thread in threads]

    assert asyncio.run(scenario()) == (want, want)
    assert is_empty(toy_llm)


def test_event_loops_come_and_go(toy_llm):
    """A loop that ends in the middle of a request leaves nothing behind; the next one works with the same engine."""
    slow_down(toy_llm, 0.005)
    engine = AsyncLLM(toy_llm)

    async def abandon():
        await anext(engine.generate("hello", endless()))

    async def whole():
        text, _ = await collect(engine, "hello", params(5))
        await until(lambda: is_empty(toy_llm))
        return text

    asyncio.run(abandon())
    assert asyncio.run(whole()) == toy_llm.generate("hello", params(5))[0].text
    engine.shutdown()


def test_several_prompts_in_one_request(toy_llm):
    """What the server builds on: the answers to all prompts are numbered in order, and a wrong prompt ends the request."""
    jobs = [GenerationJob("hello", params(4, n=2, seed=3, temperature=1.0)), GenerationJob("abc", params(4))]

    async def scenario():
        async with AsyncLLM(toy_llm) as engine:
            handle = await engine.submit(jobs)
            outputs = {event.index: event.piece.output async for event in handle.events() if event.piece.output is not None}
            handle.close()
            with pytest.raises(BadInputError, match="the prompt is empty"):
                await engine.submit([*jobs, GenerationJob("", params(4))])
            return [facts(outputs[index]) for index in range(3)]

    wants = [*toy_llm.generate("hello", jobs[0].sampling_params), *toy_llm.generate("abc", params(4))]
    assert asyncio.run(scenario()) == [facts(want) for want in wants]
    assert is_empty(toy_llm)
