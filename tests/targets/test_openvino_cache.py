"""The K/V cache of the OpenVINO target: its size, its memory, and requests that give way when it is full."""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_models import prompt

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.base import OutOfSlots
from outpace.targets.low_rank import LowRank
from outpace.targets.openvino.kv_cache import untouched
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.testing import drive, make_request, run
from outpace.tree.segment import Segment


def small(tiny, **options) -> OpenVINOTarget:
    """The tiny model with a small cache."""
    return OpenVINOTarget(tiny[1].path, vocab_size=96, max_len=256, precision="f32", **options)


@pytest.mark.parametrize("num_tokens", [10**13, 10**18, 10**30])
def test_a_cache_larger_than_any_memory_is_refused(tiny, num_tokens):
    with pytest.raises(BadInputError, match=f"no memory can be reserved for the K/V of kv_cache_tokens={num_tokens}: name a smaller"):
        small(tiny, kv_cache_tokens=num_tokens)


def test_a_slot_grows_and_a_full_cache_changes_nothing(tiny):
    target = small(tiny, kv_cache_tokens=160, prefix_cache_tokens=0)
    text = prompt(150)
    slot, whole = target.allocate(8), tiny[1].allocate(200)
    for start, end in ((0, 7), (7, 60), (60, 149)):
        target.extend(slot, end)
        for own, used in ((target, slot), (tiny[1], whole)):
            own.forward([Segment(used, text[start:end], wants_output=False)])
            own.accept(used, text[start:end], range(end - start))
    before = (list(slot.blocks), slot.capacity, target.kv_use)
    with pytest.raises(OutOfSlots):
        target.extend(slot, 400)
    assert (slot.blocks, slot.capacity, target.kv_use) == before
    got = target.forward([Segment(slot, text[149:])]).logits.copy()
    assert np.array_equal(got, tiny[1].forward([Segment(whole, text[149:])]).logits)
    tiny[1].free(whole)
    target.free(slot)
    assert target.kv_use.num_tokens == 0


def test_the_use_of_the_cache_is_told(tiny):
    target = small(tiny, kv_cache_tokens=1600, prefix_cache_tokens=320)
    use = target.kv_use
    block = 2 * 2 * 2 * 32 * 16 * 4  # layers, K and V, heads, tokens, values of a head, bytes
    assert (use.num_tokens, use.max_tokens, use.max_bytes) == (0, 1728, 54 * block)
    slots = [target.allocate(100) for _ in range(3)]
    assert target.kv_use.num_tokens == 3 * 128
    assert target.kv_use.num_bytes == max(use.num_bytes, 12 * block)
    assert target.kv_use.share == pytest.approx(384 / 1728)
    for slot in slots:
        target.free(slot)


def test_memory_does_not_grow_with_the_number_of_requests(tiny):
    target = small(tiny, kv_cache_tokens=20_000, prefix_cache_tokens=320)
    params = SamplingParams(max_tokens=40)
    sizes = []
    for seed in range(12):
        run(target, [make_request(target, prompt(60, seed=10 * seed + i), params) for i in range(4)], EngineConfig())
        sizes.append(target.kv_use.num_bytes)
    assert sizes[2:] == [sizes[2]] * 10
    assert sizes[2] <= (4 * 6 + 10) * target.cache.block_bytes
    assert target.cache.use.num_tokens == 0


def resident() -> int:
    """Memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_taken_page_by_page():
    rows = untouched((64, 4 << 20), np.uint8)
    before = resident()
    rows[:, ::2097152] = 1
    assert resident() - before < 16 << 20  # 128 pages, not 128 huge pages of 2 MiB
    assert not rows[:, 1].any()


@pytest.mark.parametrize("spec", ["none", "suffix+recycling", "lookahead"])
def test_preempted_requests_go_on_bit_by_bit(tiny, spec):
    """The texts of requests that gave way are those of each request alone, sampled and greedy."""
    _, roomy, _ = tiny
    target = small(tiny, kv_cache_tokens=172)
    drafter, dice = create_drafter(spec, DrafterContext(target)), random.Random(3)
    cases = [(prompt(dice.randrange(2, 60), seed=i), dice.choice([0.0, 0.9]), dice.randrange(30, 90)) for i in range(10)]
    requests = [
        make_request(target, text, SamplingParams(temperature=temperature, max_tokens=count, seed=i), drafter)
        for i, (text, temperature, count) in enumerate(cases)
    ]
    engine = drive(target, requests, EngineConfig(on_drafter_error="raise"))
    assert engine.metrics.num_preemptions > 0
    for i, (text, temperature, count) in enumerate(cases):
        params = SamplingParams(temperature=temperature, max_tokens=count, seed=i)
        (alone,) = run(roomy, [make_request(roomy, text, params)])
        assert alone.output_token_ids == requests[i].output_token_ids


def test_weights_of_mask_tokens_are_compiled_beside_running_forward_passes(tiny):
    """Another thread adds them: forward passes go on, keep their bits, and their outputs stay readable until the next one."""
    target, text = small(tiny, kv_cache_tokens=512), prompt(40)
    slot = target.allocate(60)
    target.forward([Segment(slot, text[:-1], wants_output=False)])
    target.accept(slot, text[:-1], range(39))
    want = target.forward([Segment(slot, text[-1:])]).logits.copy()
    adding = threading.Thread(target=target.add_vectors, args=mask_tokens())
    adding.start()
    num_passes = 0
    while adding.is_alive():
        logits = target.forward([Segment(slot, text[-1:])]).logits
        assert np.array_equal(logits, want)
        num_passes += 1
    assert num_passes > 10
    assert np.array_equal(logits, want)
    assert np.array_equal(target.forward([Segment(slot, text[-1:])]).logits, want)


def mask_tokens():
    """Vectors of two mask tokens, and weights that act on them."""
    rng = np.random.default_rng(0)
    low_rank = LowRank(rng.normal(size=(2, 64, 4)).astype(np.float32), rng.normal(size=(2, 4, 64)).astype(np.float32))
    return rng.normal(size=(2, 64)).astype(np.float32), low_rank


def test_nobody_waits_for_the_first_pass_of_a_recompiled_model(tiny, monkeypatch):
    """It takes seconds with a large model. The model before is released with the next forward pass."""
    target, text = small(tiny, kv_cache_tokens=512), prompt(20)
    slot = target.allocate(30)
    want = target.forward([Segment(slot, text)]).logits.copy()
    has_begun, goes_on, warm_up, in_time = threading.Event(), threading.Event(), target._warm_up, []

    def slow(*arguments):
        has_begun.set()
        in_time.append(goes_on.wait(20))
        warm_up(*arguments)

    monkeypatch.setattr(target, "_warm_up", slow)
    adding = threading.Thread(target=target.add_vectors, args=mask_tokens())
    adding.start()
    assert has_begun.wait(20)
    assert np.array_equal(target.forward([Segment(slot, text)]).logits, want)
    goes_on.set()
    adding.join()
    assert in_time == [True]
    assert target.former is not None
    assert np.array_equal(target.forward([Segment(slot, text)]).logits, want)
    assert target.former is None
