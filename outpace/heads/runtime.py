"""Running trained heads where the target runs: of every call only the likeliest tokens come back."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

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
    """Medusa heads, ready to run."""

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """(token ids [rows, K, top], probabilities [rows, K, top]) after hidden states [rows, H] float32; each head's likeliest tokens,
        best first."""
        ...


@dataclass(frozen=True)
class EagleRows:
    """Rows for one call of an EAGLE head, n each of B texts; m of each are to guess, the others only leave their keys and values.

    token_ids [B, n] int64 (the token after the feature's place), features [B, n, H], positions [B, n] float32; queries [B, m] int32, the
    places of the guessing rows among all B * n; past_keys and past_values [B, kv_heads, P, D]; visible [B, m, P + n] bool, what each
    guessing row sees of the past and of its text's own rows; temperatures [B, m]. Floats are float32.
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
class EagleGuesses:
    """keys and values [B, kv_heads, n, D] of all rows; of the guessing rows features [B, m, H], token_ids and chances [B, m, top], best
    first. Arrays of their own."""

    keys: Array
    values: Array
    features: Array
    token_ids: Array
    confidences: Array


class EagleHead(Protocol):
    """An EAGLE head, ready to run."""

    def __call__(self, rows: EagleRows) -> EagleGuesses: ...


def build_heads(weights: MedusaWeights, lm_head: LMHead, top: int) -> Heads:
    """The heads on the backend of the target's LM head; `top` tokens a head, fewer where the vocabulary is smaller."""
    size = lm_head.vocab_size if weights.vocab_ids is None else len(weights.vocab_ids)
    module, _, name = MEDUSA[lm_head.backend].partition(":")
    heads: Heads = getattr(import_module(module), name)(weights, lm_head, min(top, size))
    return heads


def build_eagle(weights: EagleWeights, embeddings: Embeddings, lm_head: LMHead, top: int) -> EagleHead:
    """The head on the backend of the target's LM head; `top` tokens a row, fewer where the vocabulary is smaller."""
    size = lm_head.vocab_size if weights.vocab_ids is None else len(weights.vocab_ids)
    module, _, name = EAGLE[lm_head.backend].partition(":")
    head: EagleHead = getattr(import_module(module), name)(weights, embeddings, lm_head, min(top, size))
    return head
