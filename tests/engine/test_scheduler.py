"""Admission, prefill in chunks and prefix reuse."""

from __future__ import annotations

import pytest
from engine_tools import PARAMS, PROMPTS, finish, oracle, start

from outpace.config import EngineConfig
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.targets.base import OutOfSlots
from outpace.targets.toy import ToyTarget
from outpace.testing import generate, make_request
from outpace.tree.segment import Slot


class Recording(ToyTarget):
    """Remembers, pass by pass, (slot, rows, is it prefill) of every segment."""

    def __init__(self, **options):
        super().__init__(**options)
        self.passes = []

    def forward(self, batch, width=0):
        self.passes.append([(segment.slot.index, len(segment), not segment.wants_output) for segment in batch])
        return super().forward(batch, width)


@pytest.mark.parametrize(("max_num_seqs", "max_slots", "limit"), [(2, 64, 2), (16, 2, 2), (1, 1, 1), (16, 64, 5)])
def test_admission_is_first_come_first_served_up_to_the_limits(max_num_seqs, max_slots, limit):
    target = ToyTarget(max_slots=max_slots)
    engine = Engine(target, EngineConfig(max_num_seqs=max_num_seqs))
    requests = [make_request(target, [1, 2, i], SamplingParams(max_tokens=3 + i)) for i in range(5)]
    for request in requests:
        engine.add(request)
    while engine.has_unfinished:
        engine.step()
        unfinished = [r for r in requests if r.finish_reason is None]
        assert len(engine.scheduler.running) <= limit
        assert engine.scheduler.running == unfinished[: len(engine.scheduler.running)]
    assert [r.output_token_ids for r in requests] == [generate(target, [[1, 2, i]], SamplingParams(max_tokens=3 + i))[0] for i in range(5)]


def test_no_slot_at_all_is_an_error_and_not_an_endless_wait():
    target = ToyTarget(max_slots=0)
    engine = Engine(target)
    engine.add(make_request(target, [1]))
    with pytest.raises(OutOfSlots):
        engine.step()


@pytest.mark.parametrize(("batched", "chunk"), [(6, 2), (1, 3), (20, 1), (512, 32)])
def test_prefill_fills_the_pass_and_never_starves(batched, chunk):
    target = Recording()
    engine = Engine(target, EngineConfig(max_num_batched_tokens=batched, min_prefill_chunk=chunk))
    for n in (30, 11, 1, 17):
        engine.add(make_request(target, [1 + i % 5 for i in range(n)], SamplingParams(max_tokens=4)))
    while engine.has_unfinished:
        waiting = sum(max(0, len(r.token_ids) - 1 - r.slot.num_cached) for r in engine.scheduler.running) if target.passes else 55
        engine.step()
        prefill = sum(rows for _, rows, is_prefill in target.passes[-1] if is_prefill)
        decode = sum(rows for _, rows, is_prefill in target.passes[-1] if not is_prefill)
        room = max(chunk, batched - decode)
        assert prefill == min(room, waiting)
    first = [index for passed in target.passes for index, _, is_prefill in passed if is_prefill]
    assert first == sorted(first)  # the oldest prompt first


class Remembers(ToyTarget):
    """Finds the first 4 tokens of every prompt in a cache, as a target with prefix caching does."""

    def allocate(self, num_tokens, prompt_token_ids=(), cache_salt=""):
        slot = super().allocate(num_tokens)
        found = list(prompt_token_ids[:-1][:4])
        self.cache[slot.index] = list(zip(found, range(len(found)), strict=True))
        return Slot(slot.index, slot.capacity, found, [])


@pytest.mark.parametrize("is_on", [True, False])
def test_prefix_caching_saves_prefill_and_changes_nothing(is_on):
    target = Remembers()
    plain = generate(ToyTarget(), PROMPTS, PARAMS)
    engine, requests = start(target, oracle(ToyTarget()), EngineConfig(enable_prefix_caching=is_on))
    finish(engine)
    assert [r.output_token_ids for r in requests] == plain
    assert [r.stats.num_cached_prompt_tokens for r in requests] == ([4, 0, 4] if is_on else [0, 0, 0])
    assert engine.metrics.num_prompt_tokens == (5 if is_on else 13)


def test_decoding_goes_on_while_a_long_prompt_is_read():
    target = Recording()
    engine = Engine(target, EngineConfig(max_num_batched_tokens=8, min_prefill_chunk=4))
    quick = make_request(target, [1], SamplingParams(max_tokens=30))
    slow = make_request(target, [1 + i % 7 for i in range(60)], SamplingParams(max_tokens=2))
    for request in (quick, slow):
        engine.add(request)
    for step in range(1, 6):
        engine.step()
        assert quick.num_output_tokens == step
    assert slow.is_prefilling
    finish(engine)
