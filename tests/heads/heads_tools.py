"""A base that needs no model, and a tiny live model."""

import torch

from outpace.targets.identity import Base

BASE = Base("tiny", "0123456789abcdef", 8, 20)


def tiny(seed: int = 0, dtype=torch.float32):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)).to(dtype)
