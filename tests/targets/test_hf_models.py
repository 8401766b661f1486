"""Which transformers models HFTarget runs, and how long their texts may be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from outpace.errors import BadInputError
from outpace.tree.segment import Segment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("outpace.targets.hf.target")
from hf_tools import SHAPE, V, build, close, model_of, observe_prompt, plain, random_tokens

ENCODER_DECODER = {"vocab_size": V, "d_model": 32, "d_ff": 32, "d_kv": 16, "num_layers": 1, "num_heads": 2}
LOCAL = {"vocab_size": V, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
SMALL = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("MambaConfig", **SMALL), "MambaForCausalLM has layers of type linear_attention, so rejected .* rolled back; use"),
        (
            lambda: build("RwkvConfig", **SMALL | {"num_hidden_layers": 2}),
            "RwkvForCausalLM has a recurrent state, so rejected draft tokens cannot be rolled back; use",
        ),
        (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**ENCODER_DECODER)), "is an encoder-decoder model; use"),
        (lambda: build("BloomConfig", vocab_size=V, hidden_size=32, n_layer=1, n_head=2), r"takes no position ids \(ALiBi.*; use"),
        (lambda: build("FalconConfig", alibi=True, **SMALL), r"takes no position ids \(ALiBi.*; use"),
        (lambda: build("GPTNeoConfig", **LOCAL), "layers of type local"),
        (lambda: build("Lfm2Config", **SMALL | {"layer_types": ["conv"]}), "layers of type conv"),
        (lambda: transformers.LlamaModel(transformers.LlamaConfig(**SMALL)), "load it with AutoModelForCausalLM"),
        (lambda: build("BertConfig", initializer_range=0.4, **SMALL), "ignores the mask"),  # it sees both directions
    ],
    ids=["mamba", "rwkv", "t5", "bloom", "falcon", "gpt_neo", "lfm2", "headless", "bert"],
)
def test_refusals(make, message):
    model = make()
    with pytest.raises(BadInputError, match=message) as caught:
        hf.HFTarget(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["MistralConfig", "Gemma2Config"])
def test_sliding_window_caps_the_length(name, caplog):
    head = {"head_dim": 16} if name == "Gemma2Config" else {}
    model, text = build(name, sliding_window=32, **SHAPE, **head), random_tokens(16, 32)
    with caplog.at_level("WARNING", "outpace"):
        target = hf.HFTarget(model)
    assert target.capabilities.max_len == 32
    assert [record.getMessage() for record in caplog.records] == ["texts are limited to 32 tokens by the model's sliding window"]
    slot = observe_prompt(target, text[:27])
    close(target.forward([Segment(slot, text[27:])]).logits, plain(model, text)[27:])


def test_max_len():
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
    phi = SHAPE | {"pad_token_id": 0, "eos_token_id": 1, "rope_parameters": longrope, "original_max_position_embeddings": 64}
    assert hf.HFTarget(model_of("gpt2")).capabilities.max_len == 512
    assert hf.HFTarget(model_of("llama"), max_len=100).capabilities.max_len == 100
    assert hf.HFTarget(build("Qwen2Config", sliding_window=32, use_sliding_window=False, **SHAPE)).capabilities.max_len == 1024
    assert hf.HFTarget(build("Phi3Config", **phi)).capabilities.max_len == 64
    assert hf.HFTarget(model_of("llama"), max_len=5000).capabilities.max_len == 1024
    unused = SimpleNamespace(max_position_embeddings=64, sliding_window=8, use_sliding_window=False)
    assert hf._max_len(unused, None) == 64
    with pytest.raises(BadInputError, match="pass max_len"):
        hf._max_len(SimpleNamespace(), None)


def test_flex_attention_is_switched_to_sdpa():
    model = build("LlamaConfig", **SHAPE)
    model.set_attn_implementation("flex_attention")
    target = hf.HFTarget(model)
    assert model.config._attn_implementation == "sdpa"
    slot, text = observe_prompt(target, [1, 2, 3]), [1, 2, 3, 4, 5]
    close(target.forward([Segment(slot, text[3:])]).logits, plain(model, text)[3:])


def test_bfloat16_returns_float32(device):
    target = hf.HFTarget(build("LlamaConfig", device, **SHAPE).to(torch.bfloat16), hidden=True)
    output = target.forward([Segment(observe_prompt(target, [1, 2, 3]), [4, 5])])
    assert (output.logits.dtype, output.hidden.dtype) == (np.float32, np.float32)
    assert np.isfinite(output.logits).all()
