"""Medusa heads in numpy: for the toy target, and what the fast ones are compared with."""

from __future__ import annotations

import numpy as np

from outpace.core import Array
from outpace.helpers.medusa import MedusaWeights


class NumpyHeads:
    """`lm_head` is the target's matrix [V, H]."""

    def __init__(self, weights: MedusaWeights, lm_head: Array, vocab_size: int, top: int):
        self.weights, self.top = weights, top
        shared = lm_head if weights.vocab_ids is None else lm_head[weights.vocab_ids]
        self.lm_heads = (shared[None] if weights.lm_heads is None else weights.lm_heads).astype(np.float32)  # [1 or K, R, H]

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """See `runtime.Heads`."""
        weights = self.weights
        x = np.repeat(hidden[None, :, None], weights.num_heads, axis=0)  # [K, H, 1]
        for weight, bias in zip(weights.weights, weights.biases, strict=True):
            y = weight @ x + bias[:, :, None]
            x = x + y / (1 + np.exp(-y))
        if weights.projections is not None:
            x = weights.projections @ x
        logits = (self.lm_heads @ x)[:, :, 0] / weights.temperatures[:, None]
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        best = np.argsort(-chances, axis=1, kind="stable")[:, : self.top]
        tokens = best if weights.vocab_ids is None else weights.vocab_ids[best]
        return tokens, np.take_along_axis(chances, best, axis=1)
