"""Medusa heads in numpy: for the toy target, and the reference for the other backends."""

from __future__ import annotations

import numpy as np

from outpace.arrays import Array
from outpace.heads.medusa.weights import MedusaWeights
from outpace.targets.base import LMHead


class NumpyHeads:
    """Returns the `top` likeliest tokens of each head, with the matrix of the target's LM head or the heads' own."""

    def __init__(self, weights: MedusaWeights, lm_head: LMHead, top: int):
        self.weights, self.top = weights, top
        shared = lm_head.module if weights.vocab_ids is None else lm_head.module[weights.vocab_ids]
        self.lm_heads = (shared[None] if weights.lm_heads is None else weights.lm_heads).astype(np.float32)  # [1 or K, R, H]

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """See `runtime.Heads`."""
        weights = self.weights
        x = np.repeat(hidden.T[None], weights.num_heads, axis=0)  # [K, H, n]
        for weight, bias in zip(weights.weights, weights.biases, strict=True):
            y = weight @ x + bias[:, :, None]
            x = x + y / (1 + np.exp(-y))
        if weights.projections is not None:
            x = weights.projections @ x
        logits = (self.lm_heads @ x).transpose(2, 0, 1) / weights.temperatures[:, None]  # [n, K, R]
        confidences = np.exp(logits - logits.max(axis=2, keepdims=True))
        confidences /= confidences.sum(axis=2, keepdims=True)
        best = np.argsort(-confidences, axis=2, kind="stable")[:, :, : self.top]
        tokens = best if weights.vocab_ids is None else weights.vocab_ids[best]
        return tokens, np.take_along_axis(confidences, best, axis=2)
