"""Tiny live models of transformers, and what `generate` of theirs and ours gives."""

from __future__ import annotations

from functools import cache

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from outpace.transformers import generate

V, PAD, EOS = 96, 0, 1
SIZES = {"vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 256}
SHAPE = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "eos_token_id": EOS, "pad_token_id": PAD}
GPT2 = {"vocab_size": V, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
KINDS = {
    "llama": ("LlamaConfig", SHAPE),
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 16}),
    "gpt2": ("GPT2Config", GPT2 | {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": EOS}),
}
DRAFTERS = {
    "default": lambda: {},
    "plain": lambda: {"speculative_config": False},
    "assistant": lambda: {"assistant_model": model_of("llama", seed=1)},
    "same assistant": lambda: {"assistant_model": model_of("llama"), "num_assistant_tokens": 4},
    "early exit": lambda: {"assistant_early_exit": 1},
    "prompt lookup": lambda: {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 2},
    "own spec": lambda: {"speculative_config": "suffix+recycling"},
}


def build(kind: str, seed: int = 0, **settings):
    """A random model; wide initial weights make its logits differ."""
    torch.manual_seed(seed)
    name, shape = KINDS[kind]
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**shape | settings)).float().eval()


@cache
def model_of(kind: str, seed: int = 0):
    return build(kind, seed)


@cache
def tokenizer():
    """One character is one token; 0 is the padding, 1 the end."""
    letters = ["<pad>", "<eos>", "\u0120", *(chr(33 + i) for i in range(V - 3))]
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    options = {"padding_side": "left", "model_input_names": ["input_ids", "attention_mask"]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", **options)


def inputs_of(lengths: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random prompts of these lengths, padded on the left."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, V, (len(lengths), max(lengths)), generator=draw)
    mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


ONE, RAGGED = inputs_of((9,)), inputs_of((12, 7, 1), seed=1)


def same(model, inputs, **kwargs) -> torch.Tensor:
    """Assert that both give the same tensor."""
    theirs, mine = model.generate(**inputs, **kwargs), generate(model, **inputs, **kwargs)
    assert mine.dtype == torch.long
    assert mine.tolist() == theirs.tolist()
    return mine


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
