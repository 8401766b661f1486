"""Weights in 16 bits are converted in 16 bits, to what the same numbers in 32 bits give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import prompt
from transformers import AutoModelForCausalLM, AutoTokenizer

from outpace.errors import BadInputError
from outpace.models.convert import convert
from outpace.models.tracing import stateful_graph
from outpace.models.tracing.stateful_graph import compute_wide
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.tree.segment import Segment

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def saved(tiny_models, tmp_path):
    """Saves a model with a tokenizer, and returns the folder and a new one for its conversion."""

    def save(model: Any, name: str = "model") -> tuple[Path, Path]:
        folder, out = tmp_path / name, tmp_path / f"{name}-converted"
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_models["llama"]).save_pretrained(folder)
        out.mkdir()
        return folder, out

    return save


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["int8", "int4", "bf16"])
def test_a_folder_in_16_bits_gives_what_the_same_numbers_in_32_bits_give(tiny_models, saved, monkeypatch, precision, dtype):
    kept = []  # the types of the weights when the model is traced
    monkeypatch.setattr(stateful_graph, "compute_wide", lambda model: (kept.append(model.dtype), compute_wide(model)))
    logits = []
    for name in ("narrow", "wide"):
        model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=dtype)
        folder, out = saved(model if name == "narrow" else model.float(), name)
        convert(folder, out, precision, tell=lambda _: None)
        target = OpenVINOTarget(out / "model.xml", vocab_size=model.config.vocab_size, max_len=64, precision="f32", kv_cache_tokens=256)
        logits.append(target.forward([Segment(target.allocate(32), prompt(20))]).logits.copy())
    assert kept == [dtype]
    np.testing.assert_array_equal(*logits)


def test_what_cannot_be_traced_in_16_bits_is_converted_in_32(tiny_models, saved, monkeypatch):
    def fail(model):
        raise RuntimeError("no")

    monkeypatch.setattr(stateful_graph, "compute_wide", fail)
    folder, out = saved(AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=torch.bfloat16))
    told = []
    convert(folder, out, "int8", tell=told.append)
    assert told.count("loading the weights") == 2
    assert (out / "model.xml").exists()


def test_experts_are_converted_in_32_bits_at_once(saved):
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4))
    told = []
    folder, out = saved(model.to(torch.bfloat16))
    convert(folder, out, "int8", tell=told.append)
    assert told.count("loading the weights") == 1
    assert "converting it in 32 bits" not in told
    assert (out / "model.xml").exists()


def test_a_folder_in_16_bits_that_no_target_can_run_is_not_read(saved):
    told = []
    config = transformers.BartConfig(vocab_size=96, d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32)
    config.is_encoder_decoder = False
    folder, out = saved(transformers.BartForCausalLM(config).to(torch.bfloat16))
    with pytest.raises(BadInputError, match="takes no position ids"):
        convert(folder, out, "int8", tell=told.append)
    assert told == []


def test_a_folder_in_16_bits_without_all_weights_is_not_read_twice(tiny_models, saved):
    told = []
    folder, out = saved(AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=torch.bfloat16))
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "o_proj" not in name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match="the files lack the weights"):
        convert(folder, out, "int8", tell=told.append)
    assert told == ["loading the weights"]
