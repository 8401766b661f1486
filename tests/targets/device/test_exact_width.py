"""With an exact width the text in 16 bits is the same with and without drafts, bit for bit."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.engine.step_draft import DraftLimits
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.targets.base import OutOfSlots
from outpace.tree.segment import Segment

torch = pytest.importorskip("torch")
hf = pytest.importorskip("outpace.targets.hf.target")
from helper_tools import random_eagle, random_medusa
from hf_tools import model_of, random_tokens
from test_hf_engine import PROMPTS, OracleDrafter, run

WIDTH = 8
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


def half(kind: str, dtype: str, device: str = "cpu"):
    """A copy of a tiny model in 16 bits."""
    return copy.deepcopy(model_of(kind, device)).to(TYPES[dtype])


def shape_dependent(model):
    """The model, whose numbers now depend on the shape of a forward pass as kernels of a GPU do, on every machine."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: output * (1 + 2e-2 * (output[..., 0].numel() % 7)))
    return model


def texts(target, spec, temperature, prompts=PROMPTS):
    requests = run(target, create_drafter(spec, DrafterContext(target)), temperature, prompts)
    return [request.output_token_ids for request in requests], sum(request.stats.num_accepted_tokens for request in requests)


@pytest.mark.parametrize(
    ("kind", "dtype", "temperature"),
    [("llama", "bf16", 0.8), ("llama", "f16", 0.0), ("qwen3", "f16", 0.8), ("gpt2", "bf16", 0.0), ("mla", "bf16", 0.8)],
)
def test_drafts_change_no_token_in_16_bits(kind, dtype, temperature, device, tmp_path):
    target = hf.HFTarget(half(kind, dtype, device), exact_width=WIDTH)
    assert target.capabilities.exact_logits
    expected, _ = texts(target, "none", temperature)
    assert texts(target, "none", temperature, PROMPTS[1:2])[0] == expected[1:2]  # nor does company
    random_medusa(target.base, own=kind == "gpt2").save_pretrained(tmp_path)
    for spec in ("prompt_lookup", "prompt_lookup:branches=3", f"prompt_lookup+medusa:{tmp_path}:threshold=0.001"):
        assert texts(target, spec, temperature)[0] == expected, spec
    answers = {str(i): answer for i, answer in enumerate(expected)}
    for is_tree in (False, True):
        requests = run(target, OracleDrafter(answers, is_tree), temperature, PROMPTS)
        assert [request.output_token_ids for request in requests] == expected
        assert sum(request.stats.num_accepted_tokens for request in requests) > 10
    assert not target.kv_cache.slots


@pytest.mark.parametrize("kind", ["llama"])
def test_a_model_that_rounds_by_shape_needs_it(kind, tmp_path):
    """The same model without an exact width writes other texts when it drafts; so the test above could fail."""
    for width, is_same in ((WIDTH, True), (None, False)):
        target = hf.HFTarget(shape_dependent(half(kind, "bf16")), exact_width=width)
        random_eagle(target.base).save_pretrained(tmp_path / str(width))
        expected, _ = texts(target, "none", 0.8)
        specs = ("blind", "prompt_lookup:branches=3", f"eagle:{tmp_path / str(width)}:threshold=0.001")
        assert all((texts(target, spec, 0.8)[0] == expected) == is_same for spec in specs)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_bits_do_not_depend_on_how_the_work_is_divided(data):
    target = TARGETS[data.draw(st.sampled_from(sorted(TARGETS)))]
    text = random_tokens(21, 40)
    whole, slot = target.allocate(64), target.allocate(64)
    expected, start, other = target.forward([Segment(whole, text)]).logits.copy(), 0, target.allocate(30)
    while start < len(text):
        n = data.draw(st.integers(1, 17))
        piece, beside = text[start : start + n], Segment(other, random_tokens(n, data.draw(st.integers(1, 12))))
        logits = target.forward([beside, Segment(slot, piece)]).logits[len(beside) :]
        np.testing.assert_array_equal(logits, expected[start : start + n])
        target.accept(slot, piece, range(len(piece)))
        start += n
    for used in (whole, slot, other):
        target.free(used)


TARGETS = {f"{kind} {dtype}": hf.HFTarget(half(kind, dtype), exact_width=WIDTH) for kind in ("llama", "gpt2") for dtype in TYPES}


def test_rows_that_are_not_alike_are_refused():
    model = half("llama", "bf16")
    model.model.norm.register_forward_hook(lambda _, inputs, output: output * (1 + torch.arange(output.shape[1])[:, None] / 4).to(output))
    with pytest.raises(BadInputError, match="exact_width 8: logits of LlamaForCausalLM depend on"):
        hf.HFTarget(model, exact_width=WIDTH)


def test_every_pass_has_one_shape_and_drafts_fit_into_it():
    model, shapes = half("llama", "bf16"), set()
    target = hf.HFTarget(model, exact_width=WIDTH)
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: shapes.add(tuple(inputs[0].shape)))
    assert texts(target, "blind", 0.0)[0]
    assert shapes == {(1, WIDTH)}
    request = Request("a", [1], SamplingParams(max_tokens=40), None, None)
    limits = DraftLimits(target.capabilities, 64)
    assert (limits.budget(request, 3), limits.budget(request, 30)) == (3, WIDTH - 1)
    assert DraftLimits(replace(target.capabilities, max_tokens=0), 64).budget(request, 30) == 30


def test_buffers_hold_whole_blocks():
    with pytest.raises(BadInputError, match="at least 512"):
        hf.HFTarget(half("llama", "bf16"), exact_width=WIDTH, kv_cache_tokens=511)
    target = hf.HFTarget(half("llama", "bf16"), exact_width=WIDTH, kv_cache_tokens=1300)
    assert target.max_cached_tokens == 1023
    slots = [target.allocate(100), target.allocate(511)]
    assert target.kv_cache.layers[0].keys.shape[2] == 512
    with pytest.raises(OutOfSlots):
        target.allocate(20)
    target.free(slots[0])
    target.extend(slots[1], 1023)
    with pytest.raises(OutOfSlots):
        target.extend(slots[1], 1024)
