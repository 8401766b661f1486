"""A process that serves for weeks: nothing is kept that nobody reads, what was learnt stays, and nobody waits for another's drafter."""

from __future__ import annotations

import asyncio
import threading

import pytest
from api_tools import params

from outpace import AsyncLLM
from outpace.controller import factory
from outpace.controller.cost import draft_costs
from outpace.engine.turn import Turn
from outpace.errors import BadInputError
from outpace.targets.toy import ToyTarget


def test_generate_keeps_no_verdicts(toy_llm, monkeypatch):
    kept, step = [], toy_llm._step

    def watched():
        kept.append(sum(len(job.steps) for job in toy_llm._jobs.values()))
        return step()

    monkeypatch.setattr(toy_llm, "_step", watched)
    outputs = toy_llm.generate(["hello", "abcabc"], params(40, ignore_eos=True))
    assert [len(output.token_ids) for output in outputs] == [40, 40]
    assert len(kept) > 10
    assert max(kept) == 0


def test_the_specs_of_clients_do_not_evict_ones_own_drafter(make_toy, monkeypatch):
    monkeypatch.setattr(factory, "KEPT_BYTES", 32 * factory.STRATEGY_BYTES)
    llm = make_toy("suffix:memory=100")
    own, predicting = llm.strategy(None), llm.strategy(None, has_prediction=True)
    others = [llm.strategy(f"suffix:threshold=0.{number}") for number in range(10, 52)]
    assert len({id(strategy) for strategy in others}) == len(others)
    assert llm.strategy(None) is llm.strategy("suffix:memory=100") is own
    assert llm.strategy(None, has_prediction=True) is predicting
    assert len(llm.strategies.kept) == 32
    assert llm.strategy("suffix:threshold=0.10") is not others[0]  # those of clients are dropped, the latest last
    assert llm.strategy("suffix:threshold=0.51") is others[-1]


def test_drafters_are_kept_as_long_as_their_tables_fit(make_toy, monkeypatch):
    """Small ones do not push each other out, large ones do, and those that have grown since."""
    llm = make_toy()
    kept = llm.strategies.kept
    small = [llm.strategy(f"suffix:threshold=0.{number}") for number in range(10, 60)]
    assert len(kept) == 50
    large = [llm.strategy(f"recycling:threshold=0.{number}") for number in range(10, 14)]
    size = large[0].drafter.num_bytes
    assert size > 8 * 9 * 32768
    assert llm.strategy("suffix:threshold=0.10+recycling").drafter.num_bytes == size
    monkeypatch.setattr(factory, "KEPT_BYTES", 3 * size + 5 * factory.STRATEGY_BYTES)
    latest = llm.strategy("recycling:threshold=0.9")
    assert list(kept)[:-3] == []
    assert latest in kept.values()
    assert large[-1] in kept.values()
    llm.generate("abcabc", params(30), speculative_config="recycling:threshold=0.9")  # it learns, in a table of this request's own
    assert latest.drafter.num_bytes == 2 * size
    assert llm.strategy("recycling:threshold=0.9") is latest
    assert len(kept) == 2
    assert small[0] not in kept.values()


@pytest.fixture
def slow_recycling(monkeypatch):
    """Building the drafter `recycling` takes until the event is set."""
    ready, create = threading.Event(), factory.create_drafter

    def slow(spec, context):
        if spec == "recycling":
            assert ready.wait(20)
        return create(spec, context)

    monkeypatch.setattr(factory, "create_drafter", slow)
    return ready


def test_nobody_waits_for_the_drafter_of_another(make_toy, slow_recycling):
    async def scenario():
        async with AsyncLLM(make_toy()) as llm:

            async def text(spec):
                pieces = [piece.text async for piece in llm.generate("hello", params(30, ignore_eos=True), speculative_config=spec)]
                return "".join(pieces)

            slow = asyncio.ensure_future(text("recycling"))
            await asyncio.sleep(0.05)
            quick = [await asyncio.wait_for(text(spec), 10) for spec in (None, None)]
            assert not slow.done()
            slow_recycling.set()
            assert {*quick, await slow} == {quick[0]}

    asyncio.run(scenario())


def test_threads_do_not_wait_for_the_drafter_of_another(make_toy, slow_recycling):
    llm = make_toy()
    texts = []
    thread = threading.Thread(target=lambda: texts.append(llm.generate("hello", params(30), speculative_config="recycling")[0].text))
    thread.start()
    want = llm.generate("hello", params(30))[0].text
    assert texts == []
    slow_recycling.set()
    thread.join(20)
    assert texts == [want]


class CountedTurn(Turn):
    """Counts the forward passes of each turn."""

    def __init__(self):
        super().__init__()
        self.num_passes = []

    def __enter__(self):
        super().__enter__()
        self.num_passes.append(0)


class Counted(ToyTarget):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def forward(self, batch, num_tokens=0):
        assert self.turn.is_mine
        self.turn.num_passes[-1] += 1
        return super().forward(batch, num_tokens)


def test_a_draft_model_is_measured_in_turn_with_running_requests():
    """Whoever runs the target waits for a few forward passes, not for the whole measurement."""
    turn = CountedTurn()
    draft_costs(Counted(turn), Counted(turn), turn)
    assert sum(turn.num_passes) > 40
    assert max(turn.num_passes) == 4


def test_a_wrong_spec_is_told_at_once(make_toy):
    async def scenario():
        async with AsyncLLM(make_toy()) as llm:
            with pytest.raises(BadInputError, match="unknown drafter"):
                [_ async for _ in llm.generate("hello", speculative_config="sufix")]

    asyncio.run(scenario())
