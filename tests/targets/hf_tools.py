"""Tiny random models of transformers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from outpace.tree.segment import Segment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("outpace.targets.hf.target")


V = 128
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZES = {"vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 1024}
SHAPE = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.4}  # large, so that logits differ
MLA = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "first_k_dense_replace": 2}
KINDS = {  # name -> (config class, its settings)
    "llama": ("LlamaConfig", SHAPE),
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 24}),
    "gpt2": ("GPT2Config", {"vocab_size": V, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.4}),
    "mqa": ("LlamaConfig", SHAPE | {"num_key_value_heads": 1, "attn_implementation": "eager"}),
    "mla": ("DeepseekV3Config", SHAPE | MLA | {"num_key_value_heads": 4}),  # keys and values differ in width
}


def build(config_name: str, device: str = "cpu", **settings):
    """A random model of this config class, the same one on every call."""
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**settings)
    return transformers.AutoModelForCausalLM.from_config(config).float().eval().to(device)


@cache
def model_of(kind: str, device: str = "cpu"):
    name, settings = KINDS[kind]
    return build(name, device, **settings)


def plain(model, token_ids):
    """Logits [n, V] of a forward pass without cache, mask or positions."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(token_ids)], device=model.device), use_cache=False).logits[0].float().cpu().numpy()


def close(got, expected):
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-5)


def random_tokens(seed: int, n: int, below: int = V):
    return np.random.default_rng(seed).integers(0, below, n).tolist()


def observe_prompt(target, token_ids):
    """A slot that holds these tokens."""
    slot = target.allocate(len(token_ids) + 64)
    target.forward([Segment(slot, token_ids, wants_output=False)])
    target.accept(slot, token_ids, range(len(token_ids)))
    return slot
