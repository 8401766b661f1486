"""HFTarget with fixed buffers: what a GPU runs as captured graphs, here by the same code with the calls repeated."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.params import SamplingParams
from outpace.tree.segment import Drawing, Segment

torch = pytest.importorskip("torch")
hf = pytest.importorskip("outpace.targets.hf.target")
from helper_tools import random_medusa
from hf_tools import V, close, model_of, observe_prompt, plain, random_tokens
from test_hf import plain_tree
from test_hf_engine import PROMPTS, OracleDrafter, answers_of, run
from torch.utils._python_dispatch import TorchDispatchMode

from outpace.heads.medusa.weights import medusa_weights
from outpace.heads.runtime import build_heads
from outpace.targets.hf import graph_runner
from outpace.targets.hf.live_models import is_static

KINDS = ("llama", "gpt2", "mla")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_lossless(kind, temperature, device, tmp_path):
    target, answers = hf.HFTarget(model_of(kind, device), static=True), answers_of(kind, device, temperature)
    random_medusa(target.base, own=kind == "gpt2").save_pretrained(tmp_path)
    for spec in ("none", "prompt_lookup:branches=3", f"medusa:{tmp_path}:threshold=0.001"):
        requests = run(target, create_drafter(spec, DrafterContext(target)), temperature, PROMPTS)
        assert [request.output_token_ids for request in requests] == list(answers.values()), spec
    for is_tree in (False, True):
        requests = run(target, OracleDrafter(answers, is_tree), temperature, PROMPTS)
        assert [request.output_token_ids for request in requests] == list(answers.values())
    shapes = list(target.runner.recordings)
    assert 0 < len(shapes) <= 60
    assert {shape.width for shape in shapes} <= {1, 2, 4, 8, 16, 32, 64}
    assert {(shape.first, shape.read_len) for shape in shapes} == {(0, 256)}
    assert {shape.num_seqs for shape in shapes} <= {1, 2, 4}


def test_random_sessions(device):
    """Sequences of random trees in changing company, beside one that waits: padding writes into nobody's rows."""
    model, rng = model_of("llama", device), np.random.default_rng(6)
    target = hf.HFTarget(model, static=True)
    texts = [random_tokens(seed, 3 + 5 * seed) for seed in range(5)]
    slots = [observe_prompt(target, text) for text in texts]
    for _ in range(8):
        batch = []
        for i in rng.permutation(4)[: rng.integers(1, 4)]:
            n = int(rng.integers(1, 9))
            batch.append(Segment(slots[i], rng.integers(0, V, n).tolist(), [-1, *(int(rng.integers(0, node)) for node in range(1, n))]))
        logits = target.forward(batch).logits
        close(logits, np.concatenate([plain_tree(model, s.slot.token_ids, s.token_ids, s.parents) for s in batch]))
        for segment in batch:
            target.accept(segment.slot, segment.token_ids[:1], [0])
    for slot in slots:
        close(target.forward([Segment(slot, [7])]).logits, plain(model, [*slot.token_ids, 7])[-1:])


def test_a_replayed_call_reads_new_arguments_and_a_long_prompt_runs_directly(device):
    model = model_of("llama", device)
    target, text = hf.HFTarget(model, static=True), random_tokens(1, 300)
    slot = observe_prompt(target, text[:200])
    seen = len(target.runner.recordings)
    for start in (200, 204, 208):
        close(target.forward([Segment(slot, text[start : start + 4])]).logits, plain(model, text[: start + 4])[start:])
        target.accept(slot, text[start : start + 4], range(4))
    assert len(target.runner.recordings) == seen + 1
    assert all(shape.width <= 64 for shape in target.runner.recordings)


def test_larger_buffers_are_recorded_anew(device):
    model = model_of("llama", device)
    target, text = hf.HFTarget(model, static=True, kv_cache_tokens=5000), random_tokens(2, 40)
    slot = observe_prompt(target, text[:36])
    target.forward([Segment(slot, text[36:])])
    shape, before = target.kv_cache.layers[0].keys.shape, dict(target.runner.recordings)
    assert shape[:3:2] == (2, 2048)  # as many places of 2048 rows as fit
    target.extend(slot, 3000)
    assert target.kv_cache.layers[0].keys.shape[2] > 2048
    close(target.forward([Segment(slot, text[36:])]).logits, plain(model, text)[36:])
    assert before
    assert not set(map(id, before.values())) & set(map(id, target.runner.recordings.values()))


class Waits(TorchDispatchMode):
    """Fails on operations that wait for the device or give tensors whose size depends on their values; neither can be captured."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name
        assert name not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2"}, name
        if name in {"aten::index", "aten::index_put_", "aten::index_put"}:
            assert all(index is None or index.dtype is not torch.bool for index in args[1]), name
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_call_never_waits(kind):
    """So a graph can be captured of it; the check itself finds what waits."""
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Waits():
        torch.ones(3).sum().item()
    target = hf.HFTarget(model_of(kind), static=True)

    def watched(function):
        def again():
            with Waits():
                return function()

        again()
        return again

    target.runner.capture = watched
    slots = [observe_prompt(target, random_tokens(seed, 20)) for seed in (3, 4)]
    target.runner.forget()
    race, cut = (Drawing(SamplingParams(temperature=0.8, top_p=top_p), 1) for top_p in (1.0, 0.9))
    target.forward([Segment(slots[0], [1, 2, 3], [-1, 0, 0], drawing=race), Segment(slots[1], [4], drawing=cut)])
    assert [shape.kinds for shape in target.runner.recordings] == [(True, True)]


def test_what_cannot_be_captured_runs_directly(caplog):
    model = model_of("llama")
    target = hf.HFTarget(model, static=True)

    def fail(function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    target.runner.capture = fail
    target.runner.forget()
    with caplog.at_level(logging.WARNING, "outpace"):
        slot = observe_prompt(target, [1, 2, 3])
        close(target.forward([Segment(slot, [4, 5])]).logits, plain(model, [1, 2, 3, 4, 5])[3:])
    assert [record.message for record in caplog.records] == [
        "no CUDA graphs, because a forward pass cannot be captured: operation not permitted when stream is capturing"
    ]


def test_the_number_of_graphs_is_limited(monkeypatch):
    monkeypatch.setattr(graph_runner, "MAX_GRAPHS", 1)
    model = model_of("llama")
    target = hf.HFTarget(model, static=True)
    slot = observe_prompt(target, [1, 2, 3])
    for tokens in ([4], [4, 5], [4, 5, 6]):
        close(target.forward([Segment(slot, tokens)]).logits, plain(model, [1, 2, 3, *tokens])[3:])
    assert len(target.runner.recordings) == 1


def test_exact_and_static():
    """Places differ then, because each pass runs one sequence where it is."""
    target = hf.HFTarget(model_of("llama"), static=True, exact_width=4)
    texts = [random_tokens(seed, 12) for seed in (1, 2)]
    alone = []
    for text in texts:
        slot = target.allocate(20)
        alone.append(target.forward([Segment(slot, text)]).logits.copy())
        target.free(slot)
    slots = [target.allocate(20) for _ in texts]
    logits = target.forward([Segment(slot, text) for slot, text in zip(slots, texts, strict=True)]).logits
    np.testing.assert_array_equal(logits, np.concatenate(alone))
    assert {shape.first for shape in target.runner.recordings} == {0, 1}


@pytest.mark.parametrize("own", [False, True])
def test_medusa_heads_run_in_graphs_too(own, device):
    model = model_of("llama", device)
    static, direct = (hf.HFTarget(model, static=static).lm_head() for static in (True, False))
    assert direct.run is None
    weights = medusa_weights(random_medusa(hf.HFTarget(model).base, own=own))
    heads, plain_heads = (build_heads(weights, lm_head, 5) for lm_head in (static, direct))
    for seed in range(6):
        hidden = np.random.default_rng(seed).normal(size=(1 + seed % 3, 64)).astype(np.float32)
        for found, expected in zip(heads(hidden), plain_heads(hidden), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert len(static.run.__self__.recordings) == 3


def test_only_models_on_one_cuda_device_are_captured_by_default(device):
    model = model_of("llama", device)
    assert hf.HFTarget(model).is_static == (device == "cuda") == is_static(model)
    assert not hf.HFTarget(model, is_borrowed=True).is_static
