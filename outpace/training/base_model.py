"""The model that heads are trained for: its identity, its LM head and embeddings in torch, and the sizes of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from outpace.arrays import Array
from outpace.models.transformers_io import load_in_f32
from outpace.targets.identity import Base, base_of
from outpace.training.data.shards import Rows
from outpace.training.loss import FrozenHead, has_fast_bfloat16


@dataclass(frozen=True)
class LMHeadWeights:
    """weight [V, H] float32 and bias [V] or None of a model's LM head. Quantized targets have the same matrix, rounded."""

    base: Base
    weight: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, model: str) -> LMHeadWeights:
        """Load the model with transformers, as torch cannot read a converted one. Raises BadInputError if it cannot be loaded."""
        live, source = load_in_f32(model)
        return cls.of_live(live, source.name)

    @classmethod
    def of_live(cls, live: Any, name: str) -> LMHeadWeights:
        """The LM head of a loaded transformers model in float32."""
        head = live.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return cls(base_of(live, name), head.weight.detach(), None if bias is None else bias.detach())

    def frozen(self, vocab_ids: Array | None, device: torch.device) -> FrozenHead:
        """The head for these tokens, or for all with None, on the device and in the type that is multiplied fastest there."""
        weight, bias, kept = self.weight, self.bias, None if vocab_ids is None else torch.from_numpy(vocab_ids)
        if kept is not None:
            weight, bias, kept = weight[kept], None if bias is None else bias[kept], kept.to(device)
        dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
        return FrozenHead(weight.to(device, dtype), None if bias is None else bias.to(device), kept)


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of a Llama layer."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    rms_norm_eps: float

    @classmethod
    def of(cls, config: Any) -> LayerSizes:
        """The sizes of the model's layers; values that its config lacks get the usual defaults."""
        text = config.get_text_config()
        heads = int(text.num_attention_heads)
        rope = getattr(text, "rope_parameters", None) or {}
        return cls(
            int(text.hidden_size),
            heads,
            int(getattr(text, "num_key_value_heads", None) or heads),
            int(getattr(text, "head_dim", None) or text.hidden_size // heads),
            int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
            float(rope.get("rope_theta") or getattr(text, "rope_theta", None) or 10_000.0),
            float(getattr(text, "rms_norm_eps", None) or 1e-6),
        )


@dataclass(frozen=True)
class ModelParts:
    """The parts that a feature-level head shares with its model, the LM head and the embeddings [V, H] float32, and the layer sizes."""

    head: LMHeadWeights
    embeddings: torch.Tensor
    sizes: LayerSizes

    @classmethod
    def of(cls, model: str) -> ModelParts:
        """See `LMHeadWeights.of`."""
        live, source = load_in_f32(model)
        return cls(LMHeadWeights.of_live(live, source.name), live.get_input_embeddings().weight.detach(), LayerSizes.of(live.config))


def frequent_tokens(rows: Rows, size: int | None) -> Array | None:
    """[size] int64, ascending: the tokens that occur most often in the captured texts; None if all tokens are wanted."""
    vocab_size = rows.index.origin.vocab_size
    if size is None or size >= vocab_size:
        return None
    counts = np.bincount(rows.tokens, minlength=vocab_size)
    return np.sort(np.argsort(-counts, kind="stable")[:size]).astype(np.int64)
