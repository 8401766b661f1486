"""An EAGLE head in torch, on the device and in the data type of the target's LM head."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from outpace.arrays import Array
from outpace.heads.eagle.weights import TENSORS, EagleWeights
from outpace.heads.runtime import EagleOutput, EagleRows
from outpace.targets.base import Embeddings, LMHead


class TorchEagle:
    """Runs the target's own modules; for a reduced vocabulary the needed rows of the LM head are copied."""

    def __init__(self, weights: EagleWeights, embeddings: Embeddings, lm_head: LMHead, top: int):
        self.weights, self.embeddings, self.lm_head, self.top = weights, embeddings.module, lm_head.module, top
        like = self.like = lm_head.module.weight
        self.matrices = {name: torch.from_numpy(getattr(weights, name)).to(like.device, like.dtype) for name in TENSORS}
        half = weights.head_dim // 2
        frequencies = weights.rope_theta ** -(torch.arange(half, dtype=torch.float64) / half)
        self.frequencies = frequencies.to(torch.float32).to(like.device)
        self.vocab_ids = None if weights.vocab_ids is None else torch.from_numpy(weights.vocab_ids).to(like.device)
        if self.vocab_ids is not None:
            bias = getattr(self.lm_head, "bias", None)
            self.reduced = like.detach()[self.vocab_ids], None if bias is None else bias.detach()[self.vocab_ids]

    def __call__(self, rows: EagleRows) -> EagleOutput:
        """See `runtime.EagleHead`."""
        with torch.inference_mode():
            embedded = self.embeddings(self._tensor(rows.token_ids)).to(self.like.device, self.like.dtype)
            x = linear(torch.cat([embedded, self._float(rows.features)], -1), self.matrices["fc"])  # [B, n, H]
            positions, queries = self._tensor(rows.positions), self._tensor(rows.queries).long()
            keys = self._rotated(self._heads(x, "k_proj"), positions)
            values = self._heads(x, "v_proj")
            x = x.flatten(0, 1)[queries]  # [B, m, H]
            mixed = self._attended(self._rotated(self._heads(x, "q_proj"), positions.flatten()[queries]), keys, values, rows)
            x = self._mlp(x + linear(mixed, self.matrices["o_proj"]))
            logits = self.lm_head(x) if self.vocab_ids is None else linear(x, *self.reduced)
            confidences, best = torch.softmax(logits.float() / self._tensor(rows.temperatures)[..., None], -1).topk(self.top, dim=-1)
            tokens = best if self.vocab_ids is None else self.vocab_ids[best]
            keys, values, x = (array.float().cpu().numpy() for array in (keys, values, x))
            return EagleOutput(keys, values, x, tokens.cpu().numpy(), confidences.cpu().numpy())

    def _heads(self, x: Any, name: str) -> Any:
        """[B, n, H] -> [B, heads, n, D]."""
        return linear(x, self.matrices[name]).unflatten(-1, (-1, self.weights.head_dim)).transpose(1, 2)

    def _attended(self, queries: Any, keys: Any, values: Any, rows: EagleRows) -> Any:
        """Attention of queries [B, heads, m, D] over the cached and the new entries: [B, m, heads * D]."""
        groups = self.weights.num_heads // self.weights.num_kv_heads
        keys = torch.cat([self._float(rows.past_keys), keys], 2).repeat_interleave(groups, 1)
        values = torch.cat([self._float(rows.past_values), values], 2).repeat_interleave(groups, 1)
        hidden = torch.finfo(keys.dtype).min
        mask = torch.zeros(rows.visible.shape, dtype=keys.dtype, device=keys.device).masked_fill_(self._tensor(~rows.visible), hidden)
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None]).transpose(1, 2).flatten(2)

    def _mlp(self, x: Any) -> Any:
        """x plus the MLP of its norm; the mean of squares is in float32, as in transformers' Llama."""
        wide = x.float()
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.weights.norm_eps)).to(x.dtype) * self.matrices["norm"]
        inner = silu(linear(normed, self.matrices["gate_proj"])) * linear(normed, self.matrices["up_proj"])
        return x + linear(inner, self.matrices["down_proj"])

    def _rotated(self, x: Any, positions: Any) -> Any:
        """Apply rotary embeddings to x [B, heads, n, D] at positions [B, n], with the halves ordered as in transformers' Llama."""
        angles = (positions[..., None] * self.frequencies)[:, None]
        cos, sin = (torch.cat([part, part], -1).to(x.dtype) for part in (angles.cos(), angles.sin()))
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    def _tensor(self, array: Array) -> Any:
        return torch.from_numpy(array).to(self.like.device)

    def _float(self, array: Array) -> Any:
        return self._tensor(array).to(self.like.dtype)
