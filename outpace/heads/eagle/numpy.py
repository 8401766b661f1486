"""An EAGLE head in numpy: for the toy target, and the reference for the other backends."""

from __future__ import annotations

import numpy as np

from outpace.arrays import Array
from outpace.heads.eagle.weights import EagleWeights
from outpace.heads.runtime import EagleOutput, EagleRows
from outpace.targets.base import Embeddings, LMHead


class NumpyEagle:
    """Runs the head with the matrices of the target's embeddings and LM head; returns the `top` likeliest tokens per prediction."""

    def __init__(self, weights: EagleWeights, embeddings: Embeddings, lm_head: LMHead, top: int):
        self.weights, self.embeddings, self.top = weights, embeddings.module, top
        self.lm_head = lm_head.module if weights.vocab_ids is None else lm_head.module[weights.vocab_ids]  # [R, H]

    def __call__(self, rows: EagleRows) -> EagleOutput:
        """See `runtime.EagleHead`."""
        weights = self.weights
        x = np.concatenate([self.embeddings[rows.token_ids], rows.features], axis=-1) @ weights.fc.T  # [B, n, H]
        keys = _rotated(weights, self._heads(x @ weights.k_proj.T), rows.positions[:, None])
        values = self._heads(x @ weights.v_proj.T)
        x, positions = x.reshape(-1, weights.hidden_size)[rows.queries], rows.positions.reshape(-1)[rows.queries]
        queries = _rotated(weights, self._heads(x @ weights.q_proj.T), positions[:, None])
        x = x + self._attended(queries, keys, values, rows) @ weights.o_proj.T
        normed = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + weights.norm_eps) * weights.norm
        gate = normed @ weights.gate_proj.T
        x = x + (gate / (1 + np.exp(-gate)) * (normed @ weights.up_proj.T)) @ weights.down_proj.T
        confidences = _softmax(x @ self.lm_head.T / rows.temperatures[..., None])
        best = np.argsort(-confidences, axis=-1, kind="stable")[..., : self.top]
        tokens = best if weights.vocab_ids is None else weights.vocab_ids[best]
        return EagleOutput(keys, values, x, tokens, np.take_along_axis(confidences, best, axis=-1))

    def _heads(self, x: Array) -> Array:
        """[B, n, heads * D] -> [B, heads, n, D]."""
        return x.reshape(*x.shape[:2], -1, self.weights.head_dim).swapaxes(1, 2)

    def _attended(self, queries: Array, keys: Array, values: Array, rows: EagleRows) -> Array:
        """Attention of queries [B, heads, m, D] over the cached and the new entries: [B, m, heads * D]."""
        groups = self.weights.num_heads // self.weights.num_kv_heads
        keys = np.repeat(np.concatenate([rows.past_keys, keys], axis=2), groups, axis=1)  # [B, heads, P + n, D]
        values = np.repeat(np.concatenate([rows.past_values, values], axis=2), groups, axis=1)
        scores = queries @ keys.swapaxes(2, 3) / np.float32(self.weights.head_dim**0.5)
        mixed: Array = _softmax(np.where(rows.visible[:, None], scores, np.float32(-1e30))) @ values
        return mixed.swapaxes(1, 2).reshape(*rows.queries.shape, -1)


def _rotated(weights: EagleWeights, x: Array, positions: Array) -> Array:
    """Apply rotary embeddings to x [..., D] at positions [...], with the halves ordered as in transformers' Llama."""
    half = weights.head_dim // 2
    angles = positions[..., None] * (weights.rope_theta ** -(np.arange(half) / half)).astype(np.float32)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _softmax(x: Array) -> Array:
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
