"""Medusa heads in the original form (2401.10774): blocks `x + silu(W x + b)`, then a matrix. All other parts are folded into these.

A square projection P before an LM head W becomes the LM head W P. Other engines take each head's likeliest token, so temperatures have no
effect, and a reduced vocabulary can be extended: a token outside it gets the mean of all rows inside, hence the mean of their logits,
which is never above the largest one. The result is exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.export.base import BaseModel
from outpace.heads.medusa.imports import load_medusa
from outpace.heads.medusa.weights import MedusaWeights, medusa_weights


@dataclass(frozen=True)
class PlainHeads:
    """K heads of L blocks. weights [L, K, H, H], biases [L, K, H]; lm_heads: [V, H] per head, or one that all heads share."""

    weights: Array
    biases: Array
    lm_heads: list[Array]

    @property
    def num_layers(self) -> int:
        return int(self.weights.shape[0])

    @property
    def num_heads(self) -> int:
        return int(self.weights.shape[1])

    @property
    def hidden_size(self) -> int:
        return int(self.biases.shape[2])

    @property
    def vocab_size(self) -> int:
        return len(self.lm_heads[0])

    def blocks(self) -> Iterator[tuple[int, int, Array, Array]]:
        """(head, layer, weight [H, H], bias [H]) of every block."""
        for layer, head in np.ndindex(self.num_layers, self.num_heads):
            yield head, layer, self.weights[layer, head], self.biases[layer, head]


def plain_heads(folder: Path, model: BaseModel) -> PlainHeads:
    """Read the heads in a folder, in any supported layout. Raises BadInputError for heads of another model, and for heads without blocks,
    which other engines do not support."""
    weights = medusa_weights(load_medusa(folder, model.base))
    if not len(weights.weights):
        raise BadInputError(f"the heads in {folder} have no blocks; other engines need at least one")
    lm_heads = [filled(matrix, weights.vocab_ids, model.base.vocab_size) for matrix in _lm_heads(weights, model)]
    return PlainHeads(weights.weights, weights.biases, lm_heads)


def filled(matrix: Array, vocab_ids: Array | None, vocab_size: int) -> Array:
    """Extend a matrix [R, H] to [V, H]: its rows at their tokens, their mean elsewhere. Without a reduced vocabulary it stays the same."""
    if vocab_ids is None:
        return matrix
    whole = np.tile(matrix.mean(axis=0), (vocab_size, 1))
    whole[vocab_ids] = matrix
    return whole


def _lm_heads(weights: MedusaWeights, model: BaseModel) -> list[Array]:
    """The LM heads [R, H], one per head or a single one that all heads share."""
    if weights.lm_heads is not None:
        own = list(weights.lm_heads.astype(np.float32))
    else:
        shared = model.lm_head()
        own = [shared if weights.vocab_ids is None else shared[weights.vocab_ids]]
    if weights.projections is None:
        return own
    own = own if len(own) == weights.num_heads else own * weights.num_heads
    return [matrix @ projection for matrix, projection in zip(own, weights.projections, strict=True)]
