"""Weights in 16 bits are converted in 16 bits, to what the same numbers in 32 bits give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import prompt
from transformers import AutoModelForCausalLM, AutoTokenizer

from outpace.models.convert import convert
from outpace.models.tracing import stateful_graph
from outpace.models.tracing.stateful_graph import compute_wide
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.tree.segment import Segment


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["int8", "int4", "bf16"])
def test_a_folder_in_16_bits_gives_what_the_same_numbers_in_32_bits_give(tiny_models, tmp_path, monkeypatch, precision, dtype):
    kept = []  # the types of the weights when the model is traced
    monkeypatch.setattr(stateful_graph, "compute_wide", lambda model: (kept.append(model.dtype), compute_wide(model)))
    logits = []
    for name in ("narrow", "wide"):
        model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=dtype)
        folder, out = tmp_path / name, tmp_path / f"{name}-converted"
        (model if name == "narrow" else model.float()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_models["llama"]).save_pretrained(folder)
        out.mkdir()
        convert(folder, out, precision, tell=lambda _: None)
        target = OpenVINOTarget(out / "model.xml", vocab_size=model.config.vocab_size, max_len=64, precision="f32", kv_cache_tokens=256)
        logits.append(target.forward([Segment(target.allocate(32), prompt(20))]).logits.copy())
    assert kept == [dtype]
    np.testing.assert_array_equal(*logits)


def test_what_cannot_be_traced_in_16_bits_is_converted_in_32(tiny_models, tmp_path, monkeypatch):
    def fail(model):
        raise RuntimeError("no")

    monkeypatch.setattr(stateful_graph, "compute_wide", fail)
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_models["llama"]).save_pretrained(tmp_path / "model")
    (tmp_path / "out").mkdir()
    told = []
    convert(tmp_path / "model", tmp_path / "out", "int8", tell=told.append)
    assert told.count("loading the weights") == 2
    assert (tmp_path / "out" / "model.xml").exists()
