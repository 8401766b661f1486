"""Training of a feature-level head (EAGLE, 2401.15077) on its own outputs, as in drafting (HASS; EAGLE-3, 2503.01840).

Row t of a text takes the feature g_t, the model's last hidden state, and the embedding of token t + 1. Its output a_t predicts token t + 2
through the model's LM head and replaces g_{t+1} in the next row. In round k of training, row t takes the embedding of token t + k and its
own output of round k - 1; it attends to the true rows up to t and to its own outputs of rounds 2 to k, exactly as in drafting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from outpace.arrays import Array
from outpace.training.acceptance import NUM_RANKS
from outpace.training.base_model import ModelParts
from outpace.training.data.shards import Rows
from outpace.training.eagle.module import EagleLayer
from outpace.training.loss import FrozenHead, has_fast_bfloat16, tensors_of
from outpace.training.temperature import Temperatures

DECAY = 0.8  # of the loss from round to round
BATCH_TEXTS = 8  # texts evaluated together
EVALUATION_TEXTS, CALIBRATION_TEXTS = 32, 16


@dataclass(frozen=True)
class EagleSettings:
    """`rounds`: tokens predicted in sequence in training. `feature_weight`: weight of the distance to the model's own features in the loss,
    besides the cross-entropy. `num_draft_vocab`: tokens that can be predicted; None for all."""

    rounds: int = 4
    feature_weight: float = 0.1
    num_draft_vocab: int | None = 16_384


class Batch(NamedTuple):
    """B texts, each aligned to the right end of L columns, so that their answers are in the last A columns.

    features [B, L, H]; embeddings [B, L, H], of the token after each row; is_row [B, L] bool; rows [B, A], the indices in the table of the
    rows that predict, -1 for none.
    """

    features: torch.Tensor
    embeddings: torch.Tensor
    is_row: torch.Tensor
    rows: Array


class EagleTask:
    """The task of the loop. `chosen` (to train on) and `held_out` are texts by number; an item is one of the chosen texts."""

    def __init__(self, rows: Rows, chosen: Array, held_out: Array, parts: ModelParts, head: FrozenHead, settings: EagleSettings):
        self.rows, self.chosen, self.held_out, self.head, self.settings = rows, chosen, held_out, head, settings
        self.device, self.num_items = head.weight.device, len(chosen)
        self.table = parts.embeddings.to(self.device)
        layer = EagleLayer(parts.sizes)
        layer.start(*self._scales(rows))
        self.layer = layer.to(self.device)
        self.module: nn.Module = self.layer
        self.places = head.places(rows.index.origin.vocab_size)

    def _scales(self, rows: Rows) -> tuple[float, float]:
        """Root mean squares of features and embeddings."""
        sample = rows.hidden(np.arange(0, len(rows), max(1, len(rows) // 1000))).float()
        return float(sample.square().mean().sqrt()), float(self.table.square().mean().sqrt())

    def loss(self, items: Array) -> tuple[torch.Tensor, Mapping[str, float]]:
        """The decayed sum over the rounds of cross-entropy and weighted feature distance, each a mean over the rows that have a label."""
        batch = self._batch(self.chosen[items])
        total = torch.zeros((), device=self.device)
        figures: dict[str, float] = {}
        for number, states in enumerate(self._rounds(batch), 1):
            labels = self._labels(batch.rows, number)
            known = labels >= 0
            share = DECAY ** (number - 1) / max(1, int(known.sum()))
            entropy, hits = self.head.loss(states[known], labels[known], torch.full((int(known.sum()),), share, device=self.device))
            total = total + entropy
            if self.settings.feature_weight:
                total = total + self.settings.feature_weight * DECAY ** (number - 1) * self._distance(batch, states, number)
            figures[f"accuracy_{number}"] = float(hits.float().mean()) if len(hits) else 0.0
        return total, figures

    def _distance(self, batch: Batch, states: torch.Tensor, number: int) -> torch.Tensor:
        """Mean squared distance of the states [B, A, H] of a round from the features they replace, relative to their mean square."""
        width = batch.rows.shape[1]
        start = batch.features.shape[1] - width
        wanted = batch.features[:, start + number :]
        mine = states[:, : width - number]
        counts = torch.from_numpy(batch.rows[:, : width - number] >= 0).to(self.device)
        if not len(mine[counts]):
            return torch.zeros((), device=self.device)
        return nn.functional.mse_loss(mine[counts], wanted[counts]) / wanted[counts].square().mean()

    def evaluate(self) -> Mapping[str, float]:
        """Accuracy of each round on some held-out texts."""
        found = self.ranks(self.held_out[:EVALUATION_TEXTS])
        shares = [float((ranks == 0).mean()) if len(ranks) else 0.0 for ranks in found]
        return {f"accuracy_{number}": share for number, share in enumerate(shares, 1)}

    def ranks(self, texts: Array) -> list[Array]:
        """For each round the ranks [n] of the right tokens among the likeliest, NUM_RANKS if they are not among them; a token outside the
        reduced vocabulary never is."""
        found: list[list[Array]] = [[] for _ in range(self.settings.rounds)]
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_TEXTS):
                batch = self._batch(texts[start : start + BATCH_TEXTS])
                for number, states in enumerate(self._rounds(batch), 1):
                    is_known = torch.from_numpy(self._tokens(batch.rows, number) >= 0)
                    labels = self._labels(batch.rows, number)[is_known.to(self.device)]
                    logits = self.head.logits(states[is_known.to(self.device)])
                    is_right = logits.topk(min(NUM_RANKS, logits.shape[1])).indices == labels[:, None]
                    ranks = torch.where(is_right.any(1), is_right.float().argmax(1), NUM_RANKS)
                    found[number - 1].append(ranks.cpu().numpy())
        return [np.concatenate(parts) for parts in found]

    def calibrate(self) -> list[float]:
        """Find the temperature of each round that calibrates its probabilities on held-out texts."""
        found = Temperatures(self.settings.rounds)
        texts = self.held_out[:CALIBRATION_TEXTS]
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_TEXTS):
                batch = self._batch(texts[start : start + BATCH_TEXTS])
                for number, states in enumerate(self._rounds(batch), 1):
                    labels = self._labels(batch.rows, number)
                    found.add(number - 1, self.head.logits(states[labels >= 0]), labels[labels >= 0])
        return found.best()

    def tensors(self) -> dict[str, Array]:
        """The weights under the names of the file format."""
        return tensors_of(self.module, self.head)

    def _rounds(self, batch: Batch) -> list[torch.Tensor]:
        """The outputs [B, A, H] of each round, float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            return [states.float() for states in self.layer.rounds(*batch[:3], batch.rows.shape[1], self.settings.rounds)]

    def _batch(self, texts: Array) -> Batch:
        """These texts with all their rows but the last, after which there is no token to predict."""
        begins, firsts, ends = self.rows.starts[texts], self.rows.answers[texts], self.rows.starts[texts + 1] - 1
        length, width = int((ends - begins).max()), int((ends - firsts).max())
        columns = ends[:, None] - np.arange(length, 0, -1)
        is_row = columns >= begins[:, None]
        columns = np.where(is_row, columns, begins[:, None])
        features = self.rows.hidden(columns.ravel()).to(self.device, torch.float32).view(*columns.shape, -1)
        embeddings = self.table[torch.from_numpy(self.rows.tokens[columns]).to(self.device).long()]
        last = columns[:, length - width :]
        return Batch(features, embeddings, torch.from_numpy(is_row).to(self.device), np.where(last >= firsts[:, None], last, -1))

    def _tokens(self, rows: Array, distance: int) -> Array:
        """[B, A] int64: the token each row should predict, -1 for none."""
        labels = self.rows.labels(rows.ravel(), distance).reshape(rows.shape)
        return np.where(rows >= 0, labels, -1)

    def _labels(self, rows: Array, distance: int) -> torch.Tensor:
        """[B, A] int64: the same tokens as rows of the LM head, -1 also for tokens it lacks."""
        tokens = torch.from_numpy(self._tokens(rows, distance)).to(self.device)
        return torch.where(tokens >= 0, self.places[tokens.clamp(min=0)], -1)
