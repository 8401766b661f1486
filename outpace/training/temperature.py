"""Temperature scaling: the divisor of the logits that calibrates their probabilities (1706.04599)."""

from __future__ import annotations

import torch
from torch import nn

TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)


class Temperatures:
    """The cross-entropy of every temperature, for each of `num_kinds` kinds of predictions, such as the heads."""

    def __init__(self, num_kinds: int):
        self.totals = torch.zeros(num_kinds, len(TEMPERATURES))

    def add(self, number: int, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add logits [n, R] of one kind; labels [n] are the right rows of the LM head, -1 for none."""
        for place, temperature in enumerate(TEMPERATURES):
            entropy = nn.functional.cross_entropy(logits / temperature, labels, ignore_index=-1, reduction="sum")
            self.totals[number, place] += entropy.cpu()

    def best(self) -> list[float]:
        """The best temperature of each kind."""
        return [TEMPERATURES[place] for place in self.totals.argmin(dim=1).tolist()]
