"""Medusa heads (2401.10774), trained on captured rows: no attention, so any rows make a batch. The model itself is not changed.

Head k of a row predicts the token k + 1 places after the one that follows the row; its loss counts 0.8^k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from outpace.core import Array
from outpace.training.calibration import NUM_RANKS
from outpace.training.loss import FrozenHead
from outpace.training.shards import Rows
from outpace.training.temperature import Temperatures

DECAY = 0.8  # of the loss from head to head
EVALUATION_ROWS = 2048  # looked at after every epoch
PIECE_ROWS = 256
CALIBRATION_ROWS = 1024


@dataclass(frozen=True)
class MedusaSettings:
    """The shape of the heads. `num_draft_vocab` None: they can guess every token."""

    num_heads: int = 4
    num_layers: int = 1
    num_draft_vocab: int | None = 16_384


class Block(nn.Module):
    """`x + silu(W x + b)`; starts as no change at all."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(size, size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [n, H]."""
        return x + nn.functional.silu(nn.functional.linear(x, self.weight, self.bias))


class MedusaHead(nn.Module):
    """Blocks and a square projection in front of the model's own LM head."""

    def __init__(self, size: int, num_layers: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(size) for _ in range(num_layers))
        self.projection = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.projection.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [n, H]."""
        for block in self.blocks:
            x = block(x)
        projected: torch.Tensor = self.projection(x)
        return projected


class MedusaHeads(nn.Module):
    """All heads; the names of the parameters are those of the file format."""

    def __init__(self, size: int, settings: MedusaSettings):
        super().__init__()
        self.heads = nn.ModuleList(MedusaHead(size, settings.num_layers) for _ in range(settings.num_heads))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [K, n, H]: what each head gives to the LM head."""
        return torch.stack([head(hidden) for head in self.heads])


class MedusaTask:
    """What the loop trains. `rows` are the captured ones, `chosen` [n] those to train on, `held_out` [m] those to measure with."""

    def __init__(self, rows: Rows, chosen: Array, held_out: Array, head: FrozenHead, settings: MedusaSettings):
        self.rows, self.chosen, self.held_out, self.head = rows, chosen, held_out, head
        self.device, self.num_items = head.weight.device, len(chosen)
        self.module: nn.Module = MedusaHeads(rows.index.origin.hidden_size, settings).to(self.device)
        self.num_heads = settings.num_heads
        self.temperatures = torch.ones(self.num_heads, 1, device=self.device)
        self.places = head.places(rows.index.origin.vocab_size)

    def loss(self, items: Array) -> tuple[torch.Tensor, Mapping[str, float]]:
        """The decayed sum of the heads' cross-entropies, each a mean over the rows that have such a token."""
        labels = self._labels(self.chosen[items])
        states = self.module(self.rows.hidden(self.chosen[items]).to(self.device, torch.float32))
        num_known = (labels >= 0).sum(dim=1)
        decay = DECAY ** torch.arange(self.num_heads, device=self.device)
        importance = (decay / num_known.clamp(min=1))[:, None].expand(labels.shape)
        loss, hits = self.head.loss(states.flatten(0, 1), labels.flatten(), importance.flatten())
        shares = hits.view(labels.shape).sum(dim=1) / num_known.clamp(min=1)
        return loss, {f"accuracy_{k}": share for k, share in enumerate(shares.tolist(), 1)}

    def evaluate(self) -> Mapping[str, float]:
        """Accuracy of each head on some held-out rows."""
        sample = self.held_out[:: -(-len(self.held_out) // EVALUATION_ROWS)]
        ranks, _ = self.guesses(sample)
        shares = (ranks == 0).sum(axis=0) / np.maximum((ranks >= 0).sum(axis=0), 1)
        return {f"accuracy_{k}": share for k, share in enumerate(shares.tolist(), 1)}

    def guesses(self, rows: Array) -> tuple[Array, Array]:
        """(ranks [n, K] of the right tokens, chances [n, K, NUM_RANKS] of the likeliest guesses) at these rows; see calibration.py.

        A token that the reduced vocabulary lacks is known but never guessed.
        """
        with torch.inference_mode():
            found = [self._guesses(rows[start : start + PIECE_ROWS]) for start in range(0, len(rows), PIECE_ROWS)]
        ranks, chances = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return ranks, chances

    def _guesses(self, rows: Array) -> tuple[Array, Array]:
        """The same for a few rows."""
        logits = (self._logits(rows) / self.temperatures[:, None]).flatten(0, 1)
        best = logits.topk(min(NUM_RANKS, logits.shape[1]))
        chances = (best.values - logits.logsumexp(1, keepdim=True)).exp().view(self.num_heads, len(rows), -1)
        is_right = (best.indices.view(chances.shape) == self._labels(rows)[:, :, None]).cpu().numpy()
        ranks = np.where(is_right.any(axis=2), is_right.argmax(axis=2), NUM_RANKS)
        ranks[self._tokens(rows) < 0] = -1
        return ranks.T, chances.transpose(0, 1).cpu().numpy()

    def calibrate(self) -> list[float]:
        """Find what to divide each head's logits by, so that its chances are true to life on held-out rows. `guesses` divides too."""
        sample = self.held_out[:: -(-len(self.held_out) // CALIBRATION_ROWS)]
        found = Temperatures(self.num_heads)
        with torch.inference_mode():
            for start in range(0, len(sample), PIECE_ROWS):
                piece = sample[start : start + PIECE_ROWS]
                for number, (logits, labels) in enumerate(zip(self._logits(piece), self._labels(piece), strict=True)):
                    found.add(number, logits, labels)
        best = found.best()
        self.temperatures = torch.tensor(best, device=self.device)[:, None]
        return best

    def _logits(self, rows: Array) -> torch.Tensor:
        """[K, n, R] float32 at these rows."""
        states = self.module(self.rows.hidden(rows).to(self.device, torch.float32))
        return self.head.logits(states.flatten(0, 1)).view(self.num_heads, len(rows), -1)

    def tensors(self) -> dict[str, Array]:
        """The weights as the file format names them."""
        tensors = {name: parameter.detach().float().cpu().numpy() for name, parameter in self.module.named_parameters()}
        if self.head.vocab_ids is not None:
            tensors["vocab_ids"] = self.head.vocab_ids.cpu().numpy()
        return tensors

    def _tokens(self, rows: Array) -> Array:
        """[K, n] int64: the token each head should guess, -1 behind the end of the text."""
        return np.stack([self.rows.labels(rows, k + 1) for k in range(self.num_heads)])

    def _labels(self, rows: Array) -> torch.Tensor:
        """[K, n] int64: the same as rows of the LM head, -1 also for tokens it lacks."""
        tokens = torch.from_numpy(self._tokens(rows)).to(self.device)
        return torch.where(tokens >= 0, self.places[tokens.clamp(min=0)], -1)
