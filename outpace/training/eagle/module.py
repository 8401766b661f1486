"""The layer of a feature-level head as a torch module: `fc`, attention and MLP, a Llama layer without its first norm (EAGLE, 2401.15077).

The parameters have the names of the file format, which other engines that load such heads use as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import nn

from outpace.training.base_model import LayerSizes

Heads: TypeAlias = torch.Tensor  # [B, heads, columns, D]


class _Attention(nn.Module):
    def __init__(self, sizes: LayerSizes):
        super().__init__()
        self.q_proj = nn.Linear(sizes.hidden_size, sizes.num_attention_heads * sizes.head_dim, bias=False)
        self.k_proj = nn.Linear(sizes.hidden_size, sizes.num_key_value_heads * sizes.head_dim, bias=False)
        self.v_proj = nn.Linear(sizes.hidden_size, sizes.num_key_value_heads * sizes.head_dim, bias=False)
        self.o_proj = nn.Linear(sizes.num_attention_heads * sizes.head_dim, sizes.hidden_size, bias=False)


class _MLP(nn.Module):
    def __init__(self, sizes: LayerSizes):
        super().__init__()
        self.gate_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.up_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.down_proj = nn.Linear(sizes.intermediate_size, sizes.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., H] -> [..., H]."""
        found: torch.Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return found


class _Layer(nn.Module):
    def __init__(self, sizes: LayerSizes):
        super().__init__()
        self.self_attn, self.mlp = _Attention(sizes), _MLP(sizes)
        self.post_attention_layernorm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)


class EagleLayer(nn.Module):
    """`fc` followed by one layer."""

    def __init__(self, sizes: LayerSizes):
        super().__init__()
        self.sizes = sizes
        self.fc = nn.Linear(2 * sizes.hidden_size, sizes.hidden_size, bias=False)
        self.layers = nn.ModuleList([_Layer(sizes)])

    def start(self, feature_scale: float, embedding_scale: float) -> None:
        """Initialize the weights: the output is the feature itself plus a small part of the token. The scales are root mean squares."""
        size, (layer,) = self.sizes.hidden_size, self.layers
        nn.init.normal_(self.fc.weight[:, :size], std=0.3 * feature_scale / (embedding_scale * size**0.5))
        nn.init.eye_(self.fc.weight[:, size:])
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            nn.init.normal_(linear.weight, std=1 / (feature_scale * size**0.5))
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            nn.init.normal_(linear.weight, std=size**-0.5)
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.zeros_(linear.weight)

    def rounds(
        self, features: torch.Tensor, embeddings: torch.Tensor, is_row: torch.Tensor, width: int, num_rounds: int
    ) -> Iterator[torch.Tensor]:
        """Yield the outputs [B, width, H] of the last `width` columns for each round.

        features, embeddings [B, L, H]; is_row [B, L]. In round k a column takes the embedding k - 1 columns further on. Columns too close
        to the end take a meaningless one; they have no labels.
        """
        length = features.shape[1]
        start = length - width
        x = self._joined(embeddings, features)
        places = torch.arange(length, device=x.device)
        keys, values = self._keys(x, places), self._values(x)
        is_seen = (places[None, :] <= places[start:, None]) & is_row[:, None, :]
        bias = torch.zeros(is_seen.shape, device=x.device).masked_fill_(~is_seen, -1e4)[:, None]
        own: list[tuple[Heads, Heads]] = []
        x = x[:, start:]
        for number in range(num_rounds):
            if number:
                x = self._joined(torch.roll(embeddings[:, start:], -number, dims=1), x)
                own.append((self._keys(x, places[start:] + number), self._values(x)))
            x = self._output(x, places[start:] + number, keys, values, bias, own)
            yield x

    def _joined(self, embeddings: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The input of the layer in float32, so that sums stay exact under autocast."""
        joined: torch.Tensor = self.fc(torch.cat([embeddings, features], dim=-1))
        return joined.float()

    def _output(
        self, x: torch.Tensor, places: torch.Tensor, keys: Heads, values: Heads, bias: torch.Tensor, own: list[tuple[Heads, Heads]]
    ) -> torch.Tensor:
        """Apply the layer to columns x [B, A, H] at positions `places` [A]. They attend to `keys` under the mask `bias` [B, 1, A, L] and to
        their own keys of earlier rounds."""
        layer, sizes = self.layers[0], self.sizes
        queries = rotated(self._split(layer.self_attn.q_proj(x)), places, sizes.rope_theta) * sizes.head_dim**-0.5
        scores = queries @ self._repeated(keys).transpose(-1, -2) + bias
        extra = [(queries * self._repeated(key)).sum(-1, keepdim=True) for key, _ in own]
        shares = torch.cat([scores.float(), *(column.float() for column in extra)], dim=-1).softmax(-1).to(values.dtype)
        seen = shares[..., : scores.shape[-1]] @ self._repeated(values)
        for place, (_, value) in enumerate(own, scores.shape[-1]):
            seen = seen + shares[..., place : place + 1] * self._repeated(value)
        x = x + layer.self_attn.o_proj(seen.transpose(1, 2).flatten(2))
        found: torch.Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
        return found

    def _split(self, x: torch.Tensor) -> Heads:
        """[B, A, heads * D] -> [B, heads, A, D]."""
        return x.unflatten(-1, (-1, self.sizes.head_dim)).transpose(1, 2)

    def _keys(self, x: torch.Tensor, places: torch.Tensor) -> Heads:
        return rotated(self._split(self.layers[0].self_attn.k_proj(x)), places, self.sizes.rope_theta)

    def _values(self, x: torch.Tensor) -> Heads:
        return self._split(self.layers[0].self_attn.v_proj(x))

    def _repeated(self, heads: Heads) -> Heads:
        """Repeat each key or value head for the query heads that share it."""
        return heads.repeat_interleave(self.sizes.num_attention_heads // self.sizes.num_key_value_heads, dim=1)


def rotated(heads: Heads, places: torch.Tensor, theta: float) -> Heads:
    """Apply rotary embeddings (2104.09864) at positions `places` [A], with the halves ordered as in Llama."""
    half = heads.shape[-1] // 2
    angles = places[:, None] * theta ** (-torch.arange(half, device=heads.device) / half)
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads[..., :half], heads[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
