"""The model that a helper is trained for: its LM head in torch, and who it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from outpace.core import Array
from outpace.helpers.format import Base
from outpace.helpers.identity import base_of
from outpace.models import locate
from outpace.models.transformers_io import load_model
from outpace.training.loss import FrozenHead, has_fast_bfloat16
from outpace.training.shards import Rows


@dataclass(frozen=True)
class LMHeadWeights:
    """weight [V, H] float32 and bias [V] or None of a model's LM head. Quantised targets have the same matrix, rounded."""

    base: Base
    weight: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, model: str) -> LMHeadWeights:
        """Read with transformers: a converted model has its weights in forms that torch does not know. Raises BadInputError."""
        source = locate(model)
        live: Any = load_model(source.path, torch.float32)
        head = live.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return cls(base_of(live, source.name), head.weight.detach(), None if bias is None else bias.detach())

    def frozen(self, vocab_ids: Array | None, device: torch.device) -> FrozenHead:
        """The head for these tokens, or all, where and how it is multiplied fastest."""
        weight, bias, kept = self.weight, self.bias, None if vocab_ids is None else torch.from_numpy(vocab_ids)
        if kept is not None:
            weight, bias, kept = weight[kept], None if bias is None else bias[kept], kept.to(device)
        dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
        return FrozenHead(weight.to(device, dtype), None if bias is None else bias.to(device), kept)


def frequent_tokens(rows: Rows, size: int | None) -> Array | None:
    """[size] int64, ascending: the tokens that occur most often in the captured texts; None where all of them are wanted."""
    vocab_size = rows.index.origin.vocab_size
    if size is None or size >= vocab_size:
        return None
    counts = np.bincount(rows.tokens, minlength=vocab_size)
    return np.sort(np.argsort(-counts, kind="stable")[:size]).astype(np.int64)
