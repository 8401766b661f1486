"""Distillation of a draft model: the first layers of the target, trained to predict what all its layers predict (1503.02531, 2310.08461).

The teacher's distribution comes from the captured hidden states and the shared LM head, so the teacher does not run. Embeddings and LM head
are not trained. The loss covers the rows of answers; prompts are context only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from outpace.arrays import Array
from outpace.training.base_model import frequent_tokens
from outpace.training.data.shards import Rows
from outpace.training.draft.chains import Chains
from outpace.training.draft.divergence import divergence
from outpace.training.loss import FrozenHead, has_fast_bfloat16

EVALUATION_TEXTS = 16  # evaluated after every epoch
PIECE_ROWS = 256


@dataclass(frozen=True)
class DraftSettings:
    """`num_layers`: layers of the draft model; `batch_rows`: rows per step, with prompts and padding; `num_sampled_vocab`: tokens on which
    student and teacher are compared in a step, besides the teacher's own; half are the most frequent tokens, half are drawn at random."""

    num_layers: int = 2
    batch_rows: int = 1024
    num_sampled_vocab: int = 16_384


def batches(lengths: Array, max_rows: int, seed: int) -> list[Array]:
    """Batches of texts (by number) of similar length: at most `max_rows` rows with padding, unless a single text has more."""
    shuffled = np.random.default_rng(seed).permutation(len(lengths))  # texts of equal length in random order
    found: list[list[int]] = []
    for text in shuffled[np.argsort(lengths[shuffled], kind="stable")].tolist():
        if found and (len(found[-1]) + 1) * lengths[text] <= max_rows:
            found[-1].append(text)
        else:
            found.append([text])
    return [np.array(texts) for texts in found]


class DraftTask:
    """The task of the loop. `chosen` (to train on) and `held_out` are texts by number; an item is a batch of chosen texts."""

    def __init__(self, rows: Rows, chosen: Array, held_out: Array, student: Any, head: FrozenHead, settings: DraftSettings, seed: int):
        self.rows, self.held_out, self.head, self.settings, self.seed = rows, held_out, head, settings, seed
        is_sampled = settings.num_sampled_vocab < rows.index.origin.vocab_size
        self.frequent = frequent_tokens(rows, settings.num_sampled_vocab // 2) if is_sampled else None
        self.lengths = np.diff(rows.starts)
        self.batches = [chosen[batch] for batch in batches(self.lengths[chosen], settings.batch_rows, seed)]
        self.device, self.num_items = head.weight.device, len(self.batches)
        self.module = student.to(self.device)

    def loss(self, items: Array) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Mean divergence from the teacher, and how often both agree on the likeliest of the sampled tokens."""
        texts = np.concatenate([self.batches[item] for item in items])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            states, rows = self._states(texts)
        head = self._sampled_head(int(items[0]), rows)
        loss, likeliest = divergence(states.float(), self.rows.hidden(rows).to(self.device), head)
        tokens = likeliest if head.vocab_ids is None else head.vocab_ids[likeliest]
        return loss, {"accuracy": float((tokens.cpu().numpy() == self.rows.best[rows]).mean())}

    def _sampled_head(self, item: int, rows: Array) -> FrozenHead:
        """The LM head for a sample of the vocabulary, at a third of the cost. It is drawn from all tokens, so none escapes the loss."""
        if self.frequent is None:
            return self.head
        drawn = np.random.default_rng([self.seed, item]).permutation(self.rows.index.origin.vocab_size)
        drawn = drawn[: self.settings.num_sampled_vocab // 2]
        chosen = torch.from_numpy(np.unique(np.concatenate([self.frequent, drawn, self.rows.best[rows]]))).to(self.device)
        bias = self.head.bias
        return FrozenHead(self.head.weight[chosen], None if bias is None else bias[chosen], chosen)

    def evaluate(self) -> Mapping[str, float]:
        """The same metrics on some held-out texts, over the whole vocabulary."""
        found = []
        with torch.inference_mode():
            for texts in self._pieces(self.held_out[:EVALUATION_TEXTS]):
                states, rows = self._states(texts)
                loss, likeliest = divergence(states, self.rows.hidden(rows).to(self.device), self.head)
                found.append((len(rows), loss.item(), (likeliest.cpu().numpy() == self.rows.best[rows]).mean()))
        counts, losses, accuracies = zip(*found, strict=True)
        return {"loss": float(np.average(losses, weights=counts)), "accuracy": float(np.average(accuracies, weights=counts))}

    def chains(self, texts: Array) -> tuple[float, Chains]:
        """(how often student and teacher agree on the likeliest token, the chains of draft tokens along these texts), in float32."""
        agreed, hits, confidences = [], [], []
        with torch.inference_mode():
            for text in texts.tolist():  # one at a time, so that the chains keep the order of the texts
                states, rows = self._states(np.array([text]))
                for start in range(0, len(rows), PIECE_ROWS):
                    piece = rows[start : start + PIECE_ROWS]
                    logits = self.module.get_output_embeddings()(states[start : start + PIECE_ROWS])
                    best = logits.argmax(1)
                    confidences.append((logits.gather(1, best[:, None])[:, 0] - logits.logsumexp(1)).exp().cpu().numpy())
                    agreed.append(best.cpu().numpy() == self.rows.best[piece])
                    hits.append(best.cpu().numpy() == self.rows.tokens[piece])
        starts = np.cumsum([0, *(self.rows.starts[texts + 1] - self.rows.answers[texts])])
        return float(np.concatenate(agreed).mean()), Chains(starts, np.concatenate(hits), np.concatenate(confidences))

    def _pieces(self, texts: Array) -> Iterator[Array]:
        """These texts in batches of the size used in training."""
        yield from (texts[batch] for batch in batches(self.lengths[texts], self.settings.batch_rows, self.seed))

    def _states(self, texts: Array) -> tuple[torch.Tensor, Array]:
        """(the student's inputs of the LM head [n, H], their rows [n]) for the answers of these texts.

        Padding follows each text, where no real token attends to it, so no mask is needed.
        """
        begins, ends = self.rows.starts[texts], self.rows.starts[texts + 1]
        columns = begins[:, None] + np.arange((ends - begins).max())
        is_row = columns < ends[:, None]
        tokens = torch.from_numpy(self.rows.inputs[np.where(is_row, columns, begins[:, None])]).to(self.device).long()
        hidden = self.module.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        is_answer = is_row & (columns >= self.rows.answers[texts][:, None])
        return hidden[torch.from_numpy(is_answer).to(self.device)], columns[is_answer]
