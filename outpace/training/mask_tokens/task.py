"""Training of mask tokens: their embeddings (2507.11851; PaSS, 2311.13581) and, by option, low-rank weights; the model is not changed.

m mask tokens follow a position of a text. Mask token i predicts the token i + 2 positions after it, as in drafting; the model itself
predicts the token directly after it. The loss of mask token i has the weight 0.8^i.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from outpace.arrays import Array
from outpace.training.acceptance import NUM_RANKS
from outpace.training.data.texts import Text
from outpace.training.mask_tokens.frozen import FrozenModel, LowRankTensors, Places
from outpace.training.temperature import Temperatures

DECAY = 0.8  # of the loss from mask token to mask token
STEP_SCALE = 0.1  # low-rank weights are stored in units of this, so that they take smaller steps than embeddings
EVALUATION_TEXTS, CALIBRATION_TEXTS = 16, 24
PIECE_ANCHORS = 96  # positions evaluated together


@dataclass(frozen=True)
class BlanksSettings:
    """`count`: consecutive mask tokens. `num_anchors`: positions of each text that mask tokens follow, the same in every epoch. `rank`:
    that of the weights beside every layer's MLP that act on mask tokens only; 0 for none."""

    count: int = 4
    num_anchors: int = 64
    rank: int = 0


class BlankParameters(nn.Module):
    """The trained parameters: embeddings [m, H] float32 and, with a rank, down [layers, H, rank] and up [layers, rank, H], whose product
    is 0 at first."""

    def __init__(self, start: torch.Tensor, num_layers: int, rank: int):
        super().__init__()
        self.embeddings = nn.Parameter(start.float().clone())
        size = start.shape[1]
        down = torch.randn(num_layers, size, rank, device=start.device) / (STEP_SCALE * size**0.5)
        self.down = nn.Parameter(down) if rank else None
        self.up = nn.Parameter(torch.zeros(num_layers, rank, size, device=start.device)) if rank else None

    @property
    def low_rank(self) -> LowRankTensors | None:
        """The low-rank weights of the layers, or None."""
        return None if self.down is None or self.up is None else (STEP_SCALE * self.down, STEP_SCALE * self.up)


class BlanksTask:
    """The task of the loop; an item is one of the texts to train on. `start` [m, H] are the initial embeddings of the mask tokens."""

    def __init__(
        self, model: FrozenModel, train: Sequence[Text], held_out: Sequence[Text], start: torch.Tensor, settings: BlanksSettings, seed: int
    ):
        self.model, self.train, self.held_out, self.settings, self.seed = model, train, held_out, settings, seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.blanks = BlankParameters(start.to(model.device), model.num_layers, settings.rank)
        self.module: nn.Module = self.blanks
        self.device, self.num_items = model.device, len(train)
        self.temperatures = torch.ones(settings.count)

    def loss(self, items: Array) -> tuple[torch.Tensor, Mapping[str, float]]:
        """The decayed sum of the mask tokens' cross-entropies, each a mean over the positions that have a label."""
        batch = [(text, self._some(text, [self.seed, int(item)])) for item, text in ((item, self.train[item]) for item in items)]
        labels = torch.cat([self._labels(text, places) for text, places in batch])
        states = torch.cat([self._states(places) for _, places in batch])  # one at a time, which needs no padding
        known = labels >= 0
        num_known = known.sum(dim=0).clamp(min=1)
        importance = (DECAY ** torch.arange(self.settings.count, device=self.device) / num_known).expand(labels.shape)
        loss, hits = self.model.head.loss(states[known].float(), labels[known], importance[known])
        right = torch.zeros(labels.shape, device=self.device).masked_scatter_(known, hits.float())
        return loss, {f"accuracy_{k}": share for k, share in enumerate((right.sum(dim=0) / num_known).tolist(), 1)}

    def evaluate(self) -> Mapping[str, float]:
        """Accuracy of each mask token at some positions of some held-out texts."""
        ranks = [self._ranked(text, self._some(text, [0]))[0] for text in self.held_out[:EVALUATION_TEXTS]]
        return {f"accuracy_{k}": share for k, share in enumerate(_shares(np.concatenate(ranks)), 1)}

    def predictions(self, texts: Sequence[Text]) -> tuple[Array, Array]:
        """(ranks [n, m] of the right tokens, confidences [n, m, NUM_RANKS] of the likeliest tokens) after the last token of the prompt and
        after each token of the answer but the last, text by text; see acceptance.py."""
        found = [self._ranked(text, piece) for text in texts for piece in _pieces(text)]
        ranks, confidences = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return ranks, confidences

    def calibrate(self) -> list[float]:
        """Find the temperature of each mask token that calibrates its probabilities on held-out texts; `predictions` applies it."""
        found = Temperatures(self.settings.count)
        for text in self.held_out[:CALIBRATION_TEXTS]:
            logits, labels = self._logits(text, self._some(text, [0]))
            for number in range(self.settings.count):
                found.add(number, logits[:, number], labels[:, number])
        best = found.best()
        self.temperatures = torch.tensor(best)
        return best

    def own_share(self, texts: Sequence[Text]) -> float:
        """Share of the answers' tokens that the model itself predicts from the text before them."""
        num_own = 0
        for text in texts:
            whole = [*text.prompt_ids, *text.token_ids]
            predicted = self.model.next_tokens(whole)[len(text.prompt_ids) - 1 : -1]
            num_own += int((predicted == np.array(text.token_ids)).sum())
        return num_own / sum(len(text.token_ids) for text in texts)

    def _ranked(self, text: Text, places: Places) -> tuple[Array, Array]:
        """The same as `predictions`, at some positions of one text."""
        logits, labels = self._logits(text, places)
        logits = logits / self.temperatures[:, None].to(self.device)
        best = logits.topk(min(NUM_RANKS, logits.shape[-1]))
        is_right = best.indices == labels[:, :, None]
        ranks = torch.where(is_right.any(2), is_right.float().argmax(2), NUM_RANKS)
        confidences = (best.values - logits.logsumexp(2, keepdim=True)).exp()
        return torch.where(labels >= 0, ranks, -1).cpu().numpy(), confidences.cpu().numpy()

    def _logits(self, text: Text, places: Places) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [A, m, V] float32, labels [A, m], -1 after the end) of one text."""
        with torch.inference_mode():
            states = self._states(places)
            return self.model.head.logits(states.flatten(0, 1)).view(*states.shape[:2], -1), self._labels(text, places)

    def _states(self, places: Places) -> torch.Tensor:
        """The inputs of the LM head [A, m, H] at the mask tokens."""
        return self.model.states(places, self.blanks.embeddings, self.blanks.low_rank)

    def tensors(self) -> dict[str, Array]:
        """The weights under the names of the file format."""
        found = {"embeddings": self.blanks.embeddings, **dict(zip(("down", "up"), self.blanks.low_rank or (), strict=False))}
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in found.items()}

    def _some(self, text: Text, seed: Sequence[int]) -> Places:
        """Up to `num_anchors` random positions of a text that have a token to predict, in order."""
        first, num_places = len(text.prompt_ids) - 1, len(text.token_ids) - 1
        drawn = np.random.default_rng(seed).permutation(num_places)[: self.settings.num_anchors]
        return Places([*text.prompt_ids, *text.token_ids], first + np.sort(drawn))

    def _labels(self, text: Text, places: Places) -> torch.Tensor:
        """[A, m] int64: the token each mask token should predict, -1 for none."""
        count = self.settings.count
        tokens = np.array([*text.prompt_ids, *text.token_ids, *[-1] * (count + 1)])
        return torch.from_numpy(tokens[places.anchors[:, None] + 2 + np.arange(count)]).to(self.device)


def _pieces(text: Text) -> Iterator[Places]:
    """All positions of a text, one per token of the answer, PIECE_ANCHORS at a time."""
    whole = [*text.prompt_ids, *text.token_ids]
    places = np.arange(len(text.prompt_ids) - 1, len(whole) - 1)
    for start in range(0, len(places), PIECE_ANCHORS):
        yield Places(whole, places[start : start + PIECE_ANCHORS])


def _shares(ranks: Array) -> list[float]:
    """[m]: share of first predictions that are right."""
    shares: list[float] = ((ranks == 0).sum(axis=0) / np.maximum((ranks >= 0).sum(axis=0), 1)).tolist()
    return shares
