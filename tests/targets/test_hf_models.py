"""Which transformers models HFTarget runs, and how long their texts may be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from outpace.errors import BadInputError
from outpace.targets.text_length import max_length, windows_of
from outpace.tree.segment import Segment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("outpace.targets.hf.target")
from hf_tools import SHAPE, V, build, close, model_of, observe_prompt, plain, random_tokens

ENCODER_DECODER = {"vocab_size": V, "d_model": 32, "d_ff": 32, "d_kv": 16, "num_layers": 1, "num_heads": 2}
SMALL = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WIDE = SMALL | {"initializer_range": 0.4}  # logits differ


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
        (lambda: build("Lfm2Config", **SMALL | {"layer_types": ["conv"]}), "layers of type conv"),
        (lambda: transformers.LlamaModel(transformers.LlamaConfig(**SMALL)), "load it with AutoModelForCausalLM"),
        (lambda: build("BertConfig", **WIDE), "BertLMHeadModel lets tokens see later ones, so it is no causal language model"),
        (lambda: build("RobertaConfig", **WIDE), "RobertaForCausalLM lets tokens see later ones, so it is no causal language model"),
        (lambda: build("XLMRobertaConfig", **WIDE), "XLMRobertaForCausalLM lets tokens see later ones, so it is no causal"),
        (lambda: build("RobertaConfig", is_decoder=True, **WIDE), "RobertaForCausalLM does not count positions from 0 .*; use another"),
    ],
    ids=["mamba", "rwkv", "t5", "bloom", "falcon", "lfm2", "headless", "bert", "roberta", "xlm_roberta", "roberta_decoder"],
)
def test_refusals(make, message):
    model = make()
    with pytest.raises(BadInputError, match=message) as caught:
        hf.HFTarget(model)
    assert "\n" not in str(caught.value)


WINDOW = 32
LOCAL = {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW}
WINDOWS = {
    "Mistral": ("MistralConfig", {}),
    "Mistral, eager": ("MistralConfig", {"attn_implementation": "eager"}),
    "Gemma 2": ("Gemma2Config", {"head_dim": 16}),  # eager, because of its softcap
    "Gemma 3": ("Gemma3TextConfig", {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    "Qwen2": ("Qwen2Config", {"use_sliding_window": True, "max_window_layers": 1}),
    "Cohere 2": ("Cohere2Config", {"logit_scale": 1.0, "layer_types": ["full_attention", "sliding_attention"]}),
    "gpt-oss": ("GptOssConfig", {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Llama 4": (
        "Llama4TextConfig",
        {"head_dim": 16, "attention_chunk_size": WINDOW, "num_local_experts": 2, "intermediate_size_mlp": 96, "no_rope_layers": [1, 0]},
    ),
    "GPT-Neo": ("GPTNeoConfig", LOCAL),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_slide_to_the_full_context(name, caplog):
    """Chunks, a tree whose rows are not its positions, and texts of unequal length in one pass, on both sides of the window's edge."""
    config, settings = WINDOWS[name]
    model = build(config, **({} if "Llama4" in config else {"sliding_window": WINDOW}), **SHAPE, **settings)
    with caplog.at_level("WARNING", "outpace"):
        target = hf.HFTarget(model)
    warnings = [record.getMessage() for record in caplog.records if record.name == "outpace"]
    assert (target.capabilities.max_len, warnings) == (1024, [])
    for length in (WINDOW - 3, WINDOW, 3 * WINDOW - 1):
        text, short = random_tokens(length, length + 9), random_tokens(1, 11)
        slot, other = target.allocate(length + 16), target.allocate(32)
        for start in range(0, length, 20):
            piece = text[start : min(start + 20, length)]
            close(target.forward([Segment(slot, piece)]).logits, plain(model, text[:length])[start : start + len(piece)])
            target.accept(slot, piece, range(len(piece)))
        wrong = random_tokens(2, 12)
        tree = [text[length], *wrong, *text[length + 1 :]]  # the text goes on behind 12 tokens of other branches
        parents = [-1, *[0] * 12, 0, *range(13, 13 + 7)]
        logits = target.forward([Segment(slot, tree, parents), Segment(other, short)]).logits
        rows = [0, *range(13, 21)]
        close(logits[rows], plain(model, text)[length:])
        close(logits[21:], plain(model, short))
        target.accept(slot, text[length:], rows)
        close(target.forward([Segment(slot, short)]).logits, plain(model, [*text, *short])[len(text) :])
        target.free(slot)
        target.free(other)


def test_a_window_that_cannot_be_masked_caps_the_length(caplog, monkeypatch):
    monkeypatch.setattr("outpace.targets.hf.borrow.can_mask_by_position", lambda model: False)
    model, text = build("MistralConfig", sliding_window=WINDOW, **SHAPE), random_tokens(16, WINDOW)
    with caplog.at_level("WARNING", "outpace"):
        target = hf.HFTarget(model)
    assert target.capabilities.max_len == WINDOW
    assert [record.getMessage() for record in caplog.records] == ["texts are limited to 32 tokens by the model's sliding window"]
    slot = observe_prompt(target, text[:27])
    close(target.forward([Segment(slot, text[27:])]).logits, plain(model, text)[27:])


def test_a_window_that_no_layer_asks_for_caps_the_length(caplog):
    model = build("LlamaConfig", sliding_window=WINDOW, **SHAPE)  # Llama has none; who names one may mask by it in its own way
    with caplog.at_level("WARNING", "outpace"):
        assert hf.HFTarget(model).capabilities.max_len == WINDOW


def test_a_borrowed_model_with_windows_is_given_back():
    from outpace.targets.hf.borrow import borrowed

    model, text = build("MistralConfig", sliding_window=WINDOW, **SHAPE), random_tokens(3, 60)
    before = plain(model, text)
    with borrowed(model):
        assert model.config._attn_implementation == "by_position_sdpa"
        target = hf.HFTarget(model, is_borrowed=True)
        close(target.forward([Segment(target.allocate(64), text)]).logits, before)
        np.testing.assert_array_equal(plain(model, text), before)  # others may run it meanwhile
    assert model.config._attn_implementation == "sdpa"
    np.testing.assert_array_equal(plain(model, text), before)


def test_a_borrowed_model_with_attention_of_its_own_is_given_back():
    from outpace.targets.hf.borrow import borrowed

    model, text = build("GPTNeoConfig", **SHAPE, **LOCAL), random_tokens(3, 60)
    before = plain(model, text)
    with borrowed(model):
        target = hf.HFTarget(model, is_borrowed=True)
        close(target.forward([Segment(target.allocate(64), text)]).logits, before)
        np.testing.assert_array_equal(plain(model, text), before)
        assert "_attn" in vars(model.transformer.h[1].attn.attention)
    assert "_attn" not in vars(model.transformer.h[1].attn.attention)


def test_max_len():
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
    phi = SHAPE | {"pad_token_id": 0, "eos_token_id": 1, "rope_parameters": longrope, "original_max_position_embeddings": 64}
    assert hf.HFTarget(model_of("gpt2")).capabilities.max_len == 512
    assert hf.HFTarget(model_of("llama"), max_len=100).capabilities.max_len == 100
    assert hf.HFTarget(build("Qwen2Config", sliding_window=32, use_sliding_window=False, **SHAPE)).capabilities.max_len == 1024
    assert hf.HFTarget(build("Phi3Config", **phi)).capabilities.max_len == 64
    assert hf.HFTarget(model_of("llama"), max_len=5000).capabilities.max_len == 1024
    unused = SimpleNamespace(max_position_embeddings=64, sliding_window=8, use_sliding_window=False)
    assert (windows_of(unused), max_length(unused)) == (set(), 64)
    tuned = SimpleNamespace(max_position_embeddings=64, attn_temperature_tuning=True, floor_scale=32)  # Llama 4 counts cached tokens
    assert max_length(tuned) == 31
    with pytest.raises(BadInputError, match="pass max_len"):
        max_length(SimpleNamespace())


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


def test_weights_that_a_pass_reads_are_all_but_a_table_that_is_only_looked_up_in(monkeypatch):
    model = model_of("llama")
    target = hf.HFTarget(model)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    whole = sum(weight.nbytes for weight in model.parameters())
    assert target.weight_bytes() == (whole if table is head else whole - table.nbytes)
    monkeypatch.setattr(model.config, "num_experts", 8, raising=False)
    assert target.weight_bytes() == 0  # a mixture of experts chooses what it reads
