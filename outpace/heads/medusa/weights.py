"""Medusa heads (2401.10774): small networks on the target's last hidden state, each of which predicts one position further ahead.

Head k reads the hidden state [H] from which the LM head predicts the next token, and predicts the token k + 1 positions after that one:
`x = x + silu(W x + b)` for each of its blocks, then by option a square projection, then the target's LM head or its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads import checks
from outpace.heads.format import DraftHeads

MAX_HEADS, MAX_LAYERS = 32, 8


@dataclass(frozen=True)
class MedusaWeights:
    """The weights of all K heads in float32; own LM heads keep their stored type.

    weights [L, K, H, H] and biases [L, K, H] of the blocks; projections [K, H, H] or None; lm_heads [K, R, H], or None if the heads share
    the target's; vocab_ids [R], the tokens of a reduced vocabulary, or None; temperatures [K], divisors of the logits of head k that
    calibrate its probabilities.
    """

    weights: Array
    biases: Array
    projections: Array | None
    lm_heads: Array | None
    vocab_ids: Array | None
    temperatures: Array

    @property
    def num_heads(self) -> int:
        return int(self.weights.shape[1])

    @property
    def hidden_size(self) -> int:
        return int(self.biases.shape[2])


def medusa_weights(heads: DraftHeads) -> MedusaWeights:
    """The weights of heads of kind medusa. Raises BadInputError for tensors that are missing, surplus or of a wrong shape."""
    if heads.kind != "medusa":
        raise BadInputError(f"these heads are of kind {heads.kind!r}, not medusa")
    num_heads = checks.count(heads.settings, "num_heads", 1, MAX_HEADS)
    num_layers = checks.count(heads.settings, "num_layers", 0, MAX_LAYERS)
    size, vocab_ids = heads.base.hidden_size, checks.vocab_ids(heads)
    vocab_size = heads.base.vocab_size if vocab_ids is None else len(vocab_ids)
    unused = set(heads.tensors) - {"vocab_ids"}

    def stacked(name: str, *shape: int) -> Array:
        """Stack a tensor of all heads, [K, *shape]."""
        found = []
        for head in range(num_heads):
            tensor = heads.tensors.get(f"heads.{head}.{name}")
            if tensor is None or tensor.shape != shape:
                raise BadInputError(f"heads.{head}.{name} must be {list(shape)}, not {'missing' if tensor is None else list(tensor.shape)}")
            unused.discard(f"heads.{head}.{name}")
            found.append(tensor)
        return np.stack(found)

    def optional(name: str, *shape: int) -> Array | None:
        """Stack a tensor of all heads, or return None if no head has it."""
        return stacked(name, *shape) if any(f"heads.{head}.{name}" in heads.tensors for head in range(num_heads)) else None

    weights = [stacked(f"blocks.{layer}.weight", size, size) for layer in range(num_layers)]
    biases = [stacked(f"blocks.{layer}.bias", size) for layer in range(num_layers)]
    projections = optional("projection.weight", size, size)
    lm_heads = optional("lm_head.weight", vocab_size, size)
    if unused:
        raise BadInputError(f"tensors that {num_heads} heads of {num_layers} blocks do not use: {', '.join(sorted(unused))[:200]}")
    return MedusaWeights(
        np.array(weights, np.float32).reshape(num_layers, num_heads, size, size),
        np.array(biases, np.float32).reshape(num_layers, num_heads, size),
        None if projections is None else projections.astype(np.float32),
        lm_heads,
        vocab_ids,
        checks.temperatures(heads.settings.get("temperatures", [1.0] * num_heads), num_heads, num_heads),
    )
