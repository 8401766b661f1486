"""What the sections of a run share: the device, the small model, and shapes of larger ones with random weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from outpace.models import transformers_io

HEADS = {"head_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
SHAPES: dict[str, dict[str, Any]] = {  # of SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B; `small` stands for all of them on the CPU
    "135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "head_dim": 128,
    },
    "small": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "head_dim": 32,
    },
}


@dataclass(frozen=True)
class Setting:
    """`deadline`: when the run must have ended, as time.monotonic tells it; `model`: the small model, None for random weights."""

    device: str
    model: Path | None
    deadline: float

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def dtype(self) -> Any:
        return torch.float32 if self.is_cpu else torch.bfloat16

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def shapes(self) -> list[str]:
        """The larger shapes, of random weights."""
        return ["small"] if self.is_cpu else ["1B", "8B"]

    def small_model(self) -> tuple[str, Any]:
        """(what it is, the model): the small model, or random weights of its shape."""
        if self.model is None:
            return self.random_model("small" if self.is_cpu else "135M")
        return self.model.name, _loaded(self.model, self.dtype, self.device)

    def random_model(self, shape: str) -> tuple[str, Any]:
        """(what it is, a model of this shape with random weights)."""
        return f"{shape}, random weights", _random(shape, self.dtype, self.device)


def free() -> None:
    """Forget all models and give their memory back."""
    for cached in (_random, _loaded):
        cached.cache_clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@cache
def _random(shape: str, dtype: Any, device: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**{**HEADS, **SHAPES[shape], "max_position_embeddings": 8192, "bos_token_id": None, "eos_token_id": None})
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@cache
def _loaded(path: Path, dtype: Any, device: str) -> Any:
    return transformers_io.load_model(path, dtype).to(device)


def weight_bytes(model: Any) -> int:
    """Bytes of weights that a forward pass reads; embeddings that are not the LM head are not."""
    total = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    apart = model.get_input_embeddings().weight
    return total - (0 if apart is model.get_output_embeddings().weight else apart.numel() * apart.element_size())
