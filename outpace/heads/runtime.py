"""Trained heads on the backend of the target. Each call returns only the likeliest tokens."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np

from outpace.arrays import Array
from outpace.heads.eagle.weights import EagleWeights
from outpace.heads.medusa.weights import MedusaWeights
from outpace.targets.base import Embeddings, LMHead

MEDUSA = {
    "numpy": "outpace.heads.medusa.numpy:NumpyHeads",
    "openvino": "outpace.heads.medusa.openvino:OpenVINOHeads",
    "torch": "outpace.heads.medusa.torch:TorchHeads",
}
EAGLE = {
    "numpy": "outpace.heads.eagle.numpy:NumpyEagle",
    "openvino": "outpace.heads.eagle.openvino:OpenVINOEagle",
    "torch": "outpace.heads.eagle.torch:TorchEagle",
}


class Heads(Protocol):
    """Runnable Medusa heads."""

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """(token ids [n, K, top], confidences [n, K, top]) for hidden states [n, H] float32: the likeliest tokens of each head, best
        first."""
        ...


@dataclass(frozen=True)
class EagleRows:
    """Inputs of one call of an EAGLE head: n for each of B sequences. m of them make a prediction; the others only add keys and values.

    token_ids [B, n] int64, each the token after its feature; features [B, n, H]; positions [B, n] float32; queries [B, m] int32, the
    indices of the predicting inputs among all B * n; past_keys and past_values [B, kv_heads, P, D]; visible [B, m, P + n] bool, the cached
    and the new entries that each predicting input attends to; temperatures [B, m]. Floats are float32.
    """

    token_ids: Array
    features: Array
    positions: Array
    queries: Array
    past_keys: Array
    past_values: Array
    visible: Array
    temperatures: Array


@dataclass(frozen=True)
class EagleOutput:
    """keys and values [B, kv_heads, n, D] of all inputs; features [B, m, H], token_ids and confidences [B, m, top], best first, of the
    predicting ones. The arrays are not reused by later calls."""

    keys: Array
    values: Array
    features: Array
    token_ids: Array
    confidences: Array


class EagleHead(Protocol):
    """A runnable EAGLE head."""

    def __call__(self, rows: EagleRows) -> EagleOutput: ...


def num_bytes(weights: MedusaWeights | EagleWeights) -> int:
    """Memory of the weights, without an LM head that is the target's."""
    return sum(value.nbytes for value in vars(weights).values() if isinstance(value, np.ndarray))


def build_heads(weights: MedusaWeights, lm_head: LMHead, top: int) -> Heads:
    """Build the heads on the backend of the target's LM head; they return `top` tokens each, fewer for a smaller vocabulary."""
    size = lm_head.vocab_size if weights.vocab_ids is None else len(weights.vocab_ids)
    module, _, name = MEDUSA[lm_head.backend].partition(":")
    heads: Heads = getattr(import_module(module), name)(weights, lm_head, min(top, size))
    return heads


def build_eagle(weights: EagleWeights, embeddings: Embeddings, lm_head: LMHead, top: int) -> EagleHead:
    """Build the head on the backend of the target's LM head; it returns `top` tokens per prediction, fewer for a smaller vocabulary."""
    size = lm_head.vocab_size if weights.vocab_ids is None else len(weights.vocab_ids)
    module, _, name = EAGLE[lm_head.backend].partition(":")
    head: EagleHead = getattr(import_module(module), name)(weights, embeddings, lm_head, min(top, size))
    return head
