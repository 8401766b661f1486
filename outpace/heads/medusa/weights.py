"""Medusa heads (2401.10774): small networks on the target's last hidden state, each for one token further ahead.

Head k reads the hidden state [H] of the row whose LM head gives the next token, and predicts the token k + 1 places after that one:
`x = x + silu(W x + b)` for each of its blocks, then by option a square projection, then the target's LM head or one of its own.
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
    """All K heads side by side, float32 (own LM heads as they are stored).

    weights [L, K, H, H] and biases [L, K, H] of the blocks; projections [K, H, H] or None; lm_heads [K, R, H], or None where the target's
    is shared; vocab_ids [R], the tokens of a reduced vocabulary, or None; temperatures [K], what head k's logits are divided by, so that
    its probabilities are true to life.
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


def medusa_weights(helper: DraftHeads) -> MedusaWeights:
    """The weights of a helper of kind medusa. Raises BadInputError for tensors that are missing, surplus or of a wrong shape."""
    if helper.kind != "medusa":
        raise BadInputError(f"this helper is of kind {helper.kind!r}, not medusa")
    heads, layers = (checks.count(helper.settings, *known) for known in (("num_heads", 1, MAX_HEADS), ("num_layers", 0, MAX_LAYERS)))
    size, vocab_ids = helper.base.hidden_size, checks.vocab_ids(helper)
    vocab_size = helper.base.vocab_size if vocab_ids is None else len(vocab_ids)
    unused = set(helper.tensors) - {"vocab_ids"}

    def stacked(name: str, *shape: int) -> Array:
        """One tensor of every head, [K, *shape]."""
        found = []
        for head in range(heads):
            tensor = helper.tensors.get(f"heads.{head}.{name}")
            if tensor is None or tensor.shape != shape:
                raise BadInputError(f"heads.{head}.{name} must be {list(shape)}, not {'missing' if tensor is None else list(tensor.shape)}")
            unused.discard(f"heads.{head}.{name}")
            found.append(tensor)
        return np.stack(found)

    def optional(name: str, *shape: int) -> Array | None:
        """The same, or None where no head has it."""
        return stacked(name, *shape) if any(f"heads.{head}.{name}" in helper.tensors for head in range(heads)) else None

    weights = [stacked(f"blocks.{layer}.weight", size, size) for layer in range(layers)]
    biases = [stacked(f"blocks.{layer}.bias", size) for layer in range(layers)]
    projections = optional("projection.weight", size, size)
    lm_heads = optional("lm_head.weight", vocab_size, size)
    if unused:
        raise BadInputError(f"tensors that {heads} heads of {layers} blocks have no use for: {', '.join(sorted(unused))[:200]}")
    return MedusaWeights(
        np.array(weights, np.float32).reshape(layers, heads, size, size),
        np.array(biases, np.float32).reshape(layers, heads, size),
        None if projections is None else projections.astype(np.float32),
        lm_heads,
        vocab_ids,
        checks.temperatures(helper.settings.get("temperatures", [1.0] * heads), heads, heads),
    )
