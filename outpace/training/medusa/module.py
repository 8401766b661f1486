"""Medusa heads (2401.10774) as a torch module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class MedusaSettings:
    """The shape of the heads. `num_draft_vocab` None: they can guess every token. `lm_head` own: each trains an LM head of its own, which
    begins as the model's; shared: all use the model's."""

    num_heads: int = 4
    num_layers: int = 1
    num_draft_vocab: int | None = 16_384
    lm_head: Literal["shared", "own"] = "shared"


class Block(nn.Module):
    """`x + silu(W x + b)`; starts as no change at all."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(size, size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [n, H]."""
        return x + nn.functional.silu(nn.functional.linear(x, self.weight, self.bias))


class MedusaHead(nn.Module):
    """Blocks and a square projection in front of an LM head: the model's, or one of its own, [R, H] float32, that begins as `lm_head`."""

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
    """All heads; the names of the parameters are those of the file format."""

    def __init__(self, lm_head: torch.Tensor, settings: MedusaSettings):
        super().__init__()
        size, own = lm_head.shape[1], lm_head if settings.lm_head == "own" else None
        self.heads = nn.ModuleList(MedusaHead(size, settings.num_layers, own) for _ in range(settings.num_heads))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [K, n, H]: what each head gives to the LM head."""
        return torch.stack([head(hidden) for head in self.heads])
