"""What to divide logits by, so that the chances they stand for are true to life (1706.04599)."""

from __future__ import annotations

import torch
from torch import nn

TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)


class Temperatures:
    """For each of `num_guesses` kinds of guesses the cross-entropy that every temperature gives."""

    def __init__(self, num_guesses: int):
        self.totals = torch.zeros(num_guesses, len(TEMPERATURES))

    def add(self, number: int, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count logits [n, R] of guesses of one kind, whose right rows of the LM head are labels [n], -1 for none."""
        for place, temperature in enumerate(TEMPERATURES):
            entropy = nn.functional.cross_entropy(logits / temperature, labels, ignore_index=-1, reduction="sum")
            self.totals[number, place] += entropy.cpu()

    def best(self) -> list[float]:
        """The best temperature of each kind."""
        return [TEMPERATURES[place] for place in self.totals.argmin(dim=1).tolist()]
