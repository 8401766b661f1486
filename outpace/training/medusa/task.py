"""Training of Medusa heads (2401.10774) on captured rows. They have no attention, so a batch is any set of rows. The model is not changed.

Head k at a row predicts the token k + 1 positions after the one that follows the row; its loss has the weight 0.8^k.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from outpace.arrays import Array
from outpace.training.acceptance import NUM_RANKS
from outpace.training.data.shards import Rows
from outpace.training.loss import FrozenHead, logits_of, piecewise_loss, tensors_of
from outpace.training.medusa.module import MedusaHeads, MedusaSettings
from outpace.training.temperature import Temperatures

DECAY = 0.8  # of the loss from head to head
EVALUATION_ROWS = 2048  # evaluated after every epoch
PIECE_ROWS = 256
CALIBRATION_ROWS = 1024


class MedusaTask:
    """The task of the loop. `rows` are the captured rows, `chosen` [n] those to train on, `held_out` [m] those to measure with."""

    def __init__(self, rows: Rows, chosen: Array, held_out: Array, head: FrozenHead, settings: MedusaSettings):
        self.rows, self.chosen, self.held_out, self.head = rows, chosen, held_out, head
        self.device, self.num_items = head.weight.device, len(chosen)
        self.module: torch.nn.Module = MedusaHeads(head.weight.float(), settings).to(self.device)
        self.num_heads, self.has_own = settings.num_heads, settings.lm_head == "own"
        self.temperatures = torch.ones(self.num_heads, 1, device=self.device)
        self.places = head.places(rows.index.origin.vocab_size)

    def loss(self, items: Array) -> tuple[torch.Tensor, Mapping[str, float]]:
        """The decayed sum of the heads' cross-entropies, each a mean over the rows that have a label."""
        labels = self._labels(self.chosen[items])
        states = self.module(self.rows.hidden(self.chosen[items]).to(self.device, torch.float32))
        num_known = (labels >= 0).sum(dim=1)
        decay = DECAY ** torch.arange(self.num_heads, device=self.device)
        importance = (decay / num_known.clamp(min=1))[:, None].expand(labels.shape)
        loss, hits = self._loss(states, labels, importance)
        shares = hits.sum(dim=1) / num_known.clamp(min=1)
        return loss, {f"accuracy_{k}": share for k, share in enumerate(shares.tolist(), 1)}

    def _loss(self, states: torch.Tensor, labels: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss of all heads, hits [K, n]) of states [K, n, H], labels and importance [K, n]."""
        if not self.has_own:
            loss, hits = self.head.loss(states.flatten(0, 1), labels.flatten(), importance.flatten())
            return loss, hits.view(labels.shape)
        losses, found = [], []
        for k, weight in enumerate(self._own_lm_heads()):
            loss, hits = piecewise_loss(states[k], weight, None, labels[k], importance[k])
            losses.append(loss)
            found.append(hits)
        return torch.stack(losses).sum(), torch.stack(found)

    def _own_lm_heads(self) -> list[torch.Tensor]:
        """The weight [R, H] of each head, in the type used for multiplication."""
        return [self.module.get_parameter(f"heads.{k}.lm_head.weight").to(self.head.weight.dtype) for k in range(self.num_heads)]

    def evaluate(self) -> Mapping[str, float]:
        """Accuracy of each head on some held-out rows."""
        sample = self.held_out[:: -(-len(self.held_out) // EVALUATION_ROWS)]
        ranks, _ = self.predictions(sample)
        shares = (ranks == 0).sum(axis=0) / np.maximum((ranks >= 0).sum(axis=0), 1)
        return {f"accuracy_{k}": share for k, share in enumerate(shares.tolist(), 1)}

    def predictions(self, rows: Array) -> tuple[Array, Array]:
        """(ranks [n, K] of the right tokens, confidences [n, K, NUM_RANKS] of the likeliest tokens) at these rows; see acceptance.py.

        A token outside the reduced vocabulary is known but never predicted.
        """
        with torch.inference_mode():
            found = [self._predictions(rows[start : start + PIECE_ROWS]) for start in range(0, len(rows), PIECE_ROWS)]
        ranks, confidences = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return ranks, confidences

    def _predictions(self, rows: Array) -> tuple[Array, Array]:
        """The same as `predictions`, for a few rows."""
        logits = (self._logits(rows) / self.temperatures[:, None]).flatten(0, 1)
        best = logits.topk(min(NUM_RANKS, logits.shape[1]))
        confidences = (best.values - logits.logsumexp(1, keepdim=True)).exp().view(self.num_heads, len(rows), -1)
        is_right = (best.indices.view(confidences.shape) == self._labels(rows)[:, :, None]).cpu().numpy()
        ranks = np.where(is_right.any(axis=2), is_right.argmax(axis=2), NUM_RANKS)
        ranks[self._tokens(rows) < 0] = -1
        return ranks.T, confidences.transpose(0, 1).cpu().numpy()

    def calibrate(self) -> list[float]:
        """Find the temperature of each head that calibrates its probabilities on held-out rows; `predictions` applies it."""
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
        """Logits [K, n, R] float32 at these rows."""
        states = self.module(self.rows.hidden(rows).to(self.device, torch.float32))
        if self.has_own:
            return torch.stack([logits_of(*parts) for parts in zip(states, self._own_lm_heads(), strict=True)])
        return self.head.logits(states.flatten(0, 1)).view(self.num_heads, len(rows), -1)

    def tensors(self) -> dict[str, Array]:
        """The weights under the names of the file format."""
        return tensors_of(self.module, self.head)

    def _tokens(self, rows: Array) -> Array:
        """[K, n] int64: the token each head should predict, -1 after the end of the text."""
        return np.stack([self.rows.labels(rows, k + 1) for k in range(self.num_heads)])

    def _labels(self, rows: Array) -> torch.Tensor:
        """[K, n] int64: the same tokens as rows of the LM head, -1 also for tokens it lacks."""
        tokens = torch.from_numpy(self._tokens(rows)).to(self.device)
        return torch.where(tokens >= 0, self.places[tokens.clamp(min=0)], -1)
