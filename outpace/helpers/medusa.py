"""Medusa heads (2401.10774): small networks on the target's last hidden state, each for one token further ahead.

Head k reads the hidden state [H] of the row whose LM head gives the next token, and predicts the token k + 1 places after that one:
`x = x + silu(W x + b)` for each of its blocks, then by option a square projection, then the target's LM head or one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from outpace.core import Array
from outpace.errors import BadInputError
from outpace.helpers.format import Helper

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


def medusa_weights(helper: Helper) -> MedusaWeights:
    """The weights of a helper of kind medusa. Raises BadInputError for tensors that are missing, surplus or of a wrong shape."""
    if helper.kind != "medusa":
        raise BadInputError(f"this helper is of kind {helper.kind!r}, not medusa")
    heads, layers = (_count(helper.settings, *known) for known in (("num_heads", 1, MAX_HEADS), ("num_layers", 0, MAX_LAYERS)))
    size, vocab_ids = helper.base.hidden_size, _vocab_ids(helper)
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
        _temperatures(helper.settings, heads),
    )


def _count(settings: dict[str, Any], name: str, least: int, most: int) -> int:
    value = settings.get(name)
    if not isinstance(value, int) or not least <= value <= most:
        raise BadInputError(f"{name} must be an integer from {least} to {most}, not {value!r}")
    return value


def _vocab_ids(helper: Helper) -> Array | None:
    """The tokens of the reduced vocabulary [R], or None where there is none."""
    size, found = helper.settings.get("num_draft_vocab"), helper.tensors.get("vocab_ids")
    if size is None and found is None:
        return None
    if found is None or found.dtype.kind not in "iu" or found.shape != (size,) or not size:
        raise BadInputError(f"vocab_ids must be {size} token ids (num_draft_vocab), and is {'missing' if found is None else found.shape}")
    if not 0 <= found.min() <= found.max() < helper.base.vocab_size or len(np.unique(found)) != size:
        raise BadInputError(f"vocab_ids must be different tokens of the vocabulary of {helper.base.vocab_size}")
    return found.astype(np.int64)


def _temperatures(settings: dict[str, Any], num_heads: int) -> Array:
    """[K] float32; 1 where the settings name none."""
    given = settings.get("temperatures", [1.0] * num_heads)
    is_list = isinstance(given, list) and len(given) == num_heads
    if not is_list or not all(isinstance(value, (int, float)) and 0.01 <= value <= 100 for value in given):
        raise BadInputError(f"temperatures must be {num_heads} numbers from 0.01 to 100, not {given!r:.80}")
    return np.array(given, np.float32)
