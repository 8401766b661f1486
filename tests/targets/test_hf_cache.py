"""The K/V cache of HFTarget: a bounded size, what happens without memory, slots that are moved, and beginnings that are shared."""

from __future__ import annotations

import random

import numpy as np
import pytest

from outpace.config import EngineConfig
from outpace.params import SamplingParams
from outpace.targets.base import KVUse, OutOfSlots
from outpace.testing import drive, make_request, run
from outpace.tree.segment import Segment

torch = pytest.importorskip("torch")
hf = pytest.importorskip("outpace.targets.hf.target")
from hf_tools import close, model_of, observe_prompt, plain, random_tokens


def continues(target, model, slot, tokens):
    """The next tokens after a slot's text have the logits of a plain forward pass."""
    close(target.forward([Segment(slot, tokens)]).logits, plain(model, [*slot.token_ids, *tokens])[slot.num_cached :])


def test_the_size_is_bounded_and_reported(device):
    model = model_of("llama", device)
    target = hf.HFTarget(model, kv_cache_tokens=1024)
    token_bytes = 2 * 2 * 2 * 16 * 4  # layers, K and V, heads, values of a head, bytes
    assert target.kv_use == KVUse(0, 1024, 256 * token_bytes, 1024 * token_bytes)
    assert target.max_cached_tokens == 1023
    slots = [observe_prompt(target, random_tokens(seed, 100)) for seed in range(3)]
    assert (target.kv_use.num_tokens, target.kv_use.num_bytes) == (3 * 165, 1024 * token_bytes)
    with pytest.raises(OutOfSlots):
        target.allocate(400)
    with pytest.raises(OutOfSlots):
        target.extend(slots[0], 400)
    assert slots[0].capacity == 164
    for slot in slots[:2]:
        target.free(slot)
    long = observe_prompt(target, random_tokens(7, 430))  # two places of 512 rows
    assert target.kv_cache.layers[0].keys.shape == (2, 2, 512, 16)
    continues(target, model, long, [1, 2, 3])
    continues(target, model, slots[2], [4, 5])


def test_the_default_is_a_share_of_the_free_memory(device):
    target = hf.HFTarget(model_of("llama", device))
    assert 0 < target.kv_use.max_bytes <= (2 << 30 if device == "cpu" else torch.cuda.mem_get_info()[1])
    assert target.max_cached_tokens == target.kv_use.max_tokens - 1


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_an_allocation_that_fails_changes_nothing(device, failing, monkeypatch):
    """The `failing`-th new buffer finds no memory: nobody loses K/V, and what fits goes on."""
    model = model_of("llama", device)
    target = hf.HFTarget(model)
    slots = [observe_prompt(target, random_tokens(seed, 100)) for seed in range(2)]
    real, left = torch.Tensor.new_zeros, [failing]

    def new_zeros(tensor, *size):
        if left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        left[0] -= 1
        return real(tensor, *size)

    monkeypatch.setattr(torch.Tensor, "new_zeros", new_zeros)
    for _ in range(2):
        with pytest.raises(OutOfSlots):
            target.allocate(3000)
        left[0] = 0
        with pytest.raises(OutOfSlots):
            target.extend(slots[0], 3000)
    for slot in slots:
        continues(target, model, slot, [1, 2, 3])
    monkeypatch.undo()
    target.extend(slots[0], 900)
    third = observe_prompt(target, random_tokens(5, 600))
    for slot in (*slots, third):
        continues(target, model, slot, [1, 2, 3])


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(*_):
        raise RuntimeError("device-side assert")

    target = hf.HFTarget(model_of("llama"))
    monkeypatch.setattr(torch.Tensor, "new_zeros", broken)
    with pytest.raises(RuntimeError, match="assert"):
        target.allocate(3000)


def test_slots_that_run_together_are_moved_together_once(device):
    model = model_of("llama", device)
    target = hf.HFTarget(model)
    slots = [observe_prompt(target, random_tokens(seed, 20 + seed)) for seed in range(6)]
    layer, moves = target.kv_cache.layers[0], []
    swap = layer.swap
    layer.swap = lambda *places: moves.append(places) or swap(*places)
    apart = [slots[0], slots[2], slots[5]]
    for _ in range(3):
        batch = [Segment(slot, [1, 2]) for slot in apart]
        close(target.forward(batch).logits, np.concatenate([plain(model, [*slot.token_ids, 1, 2])[-2:] for slot in apart]))
    assert len(moves) == 1
    with torch.inference_mode():
        read = layer.update(*(torch.zeros(3, 2, 2, 16, device=device) for _ in range(2)))
    assert read[0].data_ptr() - layer.keys.data_ptr() == target.kv_cache.place.first * layer.keys.stride(0) * 4  # no copy
    for slot in slots[1:]:
        if slot not in apart:
            continues(target, model, slot, [3])


def test_a_prefill_that_moves_a_decoding_slot_keeps_its_new_rows(device):
    """Slots of a later pass of the same step are moved while rows of an earlier one are not accepted yet."""
    model = model_of("llama", device)
    target, long = hf.HFTarget(model), random_tokens(9, 400)
    slots = [observe_prompt(target, random_tokens(seed, 20 + seed)) for seed in range(4)]
    middle = target.allocate(500)
    target.free(slots[1])
    batch = [Segment(slots[0], [1, 2]), Segment(middle, long, wants_output=False), Segment(slots[3], [3]), Segment(slots[2], [4, 5])]
    target.forward(batch)
    for segment in batch:
        target.accept(segment.slot, segment.token_ids, range(len(segment)))
    for slot in (slots[0], middle, slots[3], slots[2]):
        continues(target, model, slot, [7, 8])


def test_a_running_text_lends_its_beginning(device):
    model = model_of("llama", device)
    target, text = hf.HFTarget(model), random_tokens(3, 40)
    first = observe_prompt(target, text)
    prompt = [*text[:30], *random_tokens(4, 10)]
    second = target.allocate(80, prompt)
    assert second.token_ids == prompt[:30]
    continues(target, model, second, prompt[30:])
    assert target.allocate(80, text).num_cached == 39  # the last token of a prompt is always run
    assert target.allocate(80, random_tokens(5, 40)).num_cached == 0
    continues(target, model, first, [1, 2])
    target.free(first)
    target.free(second)


def test_a_finished_text_is_not_reused(device):
    """The weights of a live model may change between two calls."""
    target, text = hf.HFTarget(model_of("llama", device)), random_tokens(3, 40)
    target.free(observe_prompt(target, text))
    assert target.allocate(80, text).num_cached == 0


def test_any_load_in_a_small_cache(device):
    """Requests that give way go on with the text of each alone."""
    model, dice = model_of("llama", device), random.Random(5)
    target = hf.HFTarget(model, kv_cache_tokens=420)
    cases = [(random_tokens(i, dice.randrange(1, 60), 8), dice.randrange(20, 120), i) for i in range(8)]
    requests = [make_request(target, text, SamplingParams(temperature=0.5, max_tokens=count, seed=i)) for text, count, i in cases]
    engine = drive(target, requests, EngineConfig(on_drafter_error="raise"))
    assert engine.metrics.num_preemptions > 0
    roomy = hf.HFTarget(model)
    for request, (text, count, i) in zip(requests, cases, strict=True):
        (alone,) = run(roomy, [make_request(roomy, text, SamplingParams(temperature=0.5, max_tokens=count, seed=i))])
        assert request.output_token_ids == alone.output_token_ids
