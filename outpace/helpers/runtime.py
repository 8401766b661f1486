"""Running Medusa heads where the target runs: one call a draft, of which only the likeliest tokens come back."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from outpace.core import Array
from outpace.helpers.medusa import MedusaWeights

RUNTIMES = {
    "numpy": "outpace.helpers.medusa_numpy:NumpyHeads",
    "openvino": "outpace.helpers.medusa_openvino:OpenVINOHeads",
    "torch": "outpace.helpers.medusa_torch:TorchHeads",
}


@dataclass(frozen=True)
class LMHead:
    """The last step of a target, from a hidden state to logits, in the form its backend works with: a matrix [V, H] for numpy, a module
    for torch, a model [1, rows, H] -> [1, rows, V] for openvino. Whoever takes an openvino model may change it."""

    backend: str
    module: Any
    vocab_size: int


class Heads(Protocol):
    """Medusa heads, ready to run."""

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """(token ids [K, top], probabilities [K, top]) after one hidden state [H] float32; each head's likeliest tokens, best first."""
        ...


def build_heads(weights: MedusaWeights, lm_head: LMHead, top: int) -> Heads:
    """The heads on the backend of the target's LM head; `top` tokens a head, fewer where the vocabulary is smaller."""
    size = lm_head.vocab_size if weights.vocab_ids is None else len(weights.vocab_ids)
    module, _, name = RUNTIMES[lm_head.backend].partition(":")
    heads: Heads = getattr(import_module(module), name)(weights, lm_head.module, lm_head.vocab_size, min(top, size))
    return heads
