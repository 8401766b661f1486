"""Medusa heads (2401.10774) as a torch module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class MedusaSettings:
    """The shape of the heads. `num_draft_vocab`: tokens that can be predicted; None for all. `lm_head` own: each head trains its own LM
    head, initialized with the model's; shared: all use the model's."""

    num_heads: int = 4
    num_layers: int = 1
    num_draft_vocab: int | None = 16_384
    lm_head: Literal["shared", "own"] = "shared"


class Block(nn.Module):
    """`x + silu(W x + b)`; initially the identity."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(size, size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [n, H]."""
        return x + nn.functional.silu(nn.functional.linear(x, self.weight, self.bias))


class MedusaHead(nn.Module):
    """Blocks and a square projection before an LM head: the model's, or its own [R, H] float32, initialized with `lm_head`."""

    def __init__(self, size: int, num_layers: int, lm_head: torch.Tensor | None):
        super().__init__()
        self.blocks = nn.ModuleList(Block(size) for _ in range(num_layers))
        self.projection = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.projection.weight)
        if lm_head is not None:
            self.lm_head = nn.utils.skip_init(nn.Linear, size, len(lm_head), bias=False)
            self.lm_head.weight.data.copy_(lm_head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [n, H]."""
        for block in self.blocks:
            x = block(x)
        projected: torch.Tensor = self.projection(x)
        return projected


class MedusaHeads(nn.Module):
    """All heads; the parameters have the names of the file format."""

    def __init__(self, lm_head: torch.Tensor, settings: MedusaSettings):
        super().__init__()
        size, own = lm_head.shape[1], lm_head if settings.lm_head == "own" else None
        self.heads = nn.ModuleList(MedusaHead(size, settings.num_layers, own) for _ in range(settings.num_heads))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [K, n, H]: the input of the LM head from each head."""
        return torch.stack([head(hidden) for head in self.heads])
