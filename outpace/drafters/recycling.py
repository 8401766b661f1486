"""Token recycling (2408.08696): what the model thought of next, the last time it saw this token.

Every verified row, accepted or not, says which tokens the model found likeliest after the row's token. A table keeps those
for each token, and a tree is grown from it best first by the recorded probabilities. The table outlives requests, so it
gets better with use; it starts empty and then guesses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core import Array, Capabilities, Draft, Request, Verdict
from outpace.drafters.base import Drafter, DrafterContext, grow, tail
from outpace.errors import BadInputError
from outpace.targets.base import TargetOutput

BLOCK = 64  # the vocabulary is searched block by block


class RecyclingDrafter(Drafter):
    """successors: kept for each token. threshold: nodes less likely than this are not worth their row. trust: weight of a record."""

    requires = Capabilities(tree=True)
    num_draft_tokens = 10

    def __init__(self, context: DrafterContext, successors: int = 8, threshold: float = 0.05, trust: float = 0.9):
        if successors < 1 or not 0 < threshold < 1 or not 0 < trust <= 1:
            raise BadInputError("recycling: need successors >= 1, 0 < threshold < 1 and 0 < trust <= 1")
        self.num_successors = min(successors, context.vocab_size)
        self.threshold, self.trust = threshold, trust
        self.tokens = np.zeros((context.vocab_size, self.num_successors), np.int32)
        self.chances = np.zeros((context.vocab_size, self.num_successors), np.float32)  # 0: nothing recorded

    def propose(self, request: Request, budget: int) -> Draft:
        return grow(lambda path: self.successors(request, path), budget, self.threshold)

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        (token,) = tail(request, 1, path)
        return [(t, self.trust * c) for t, c in zip(self.tokens[token].tolist(), self.chances[token].tolist(), strict=True) if c > 0]

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        rows = np.asarray(output.token_ids)
        tokens, chances = likeliest(output.logits, self.num_successors)
        # rows of the accepted path are written last, so that they win over guesses of the same token
        order = np.argsort(np.isin(np.arange(len(rows)), [0, *(node + 1 for node in verdict.path)]), kind="stable")
        self.tokens[rows[order]], self.chances[rows[order]] = tokens[order], chances[order]


def likeliest(logits: Array, k: int) -> tuple[Array, Array]:
    """(tokens [rows, k], chances [rows, k]) of the k largest logits of each row, best first. Chances are shares of those k."""
    rows, size = logits.shape
    if size >= 4 * k * BLOCK:  # the k largest stand in the k blocks with the largest maxima
        whole = size // BLOCK * BLOCK
        maxima = logits[:, :whole].reshape(rows, -1, BLOCK).max(axis=2)
        blocks = np.argpartition(maxima, -k, axis=1)[:, -k:]
        candidates = (blocks[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(rows, -1)
        candidates = np.concatenate([candidates, np.tile(np.arange(whole, size), (rows, 1))], axis=1)
    else:
        candidates = np.tile(np.arange(size), (rows, 1))
    values = np.take_along_axis(logits, candidates, axis=1)
    best = np.argpartition(values, -k, axis=1)[:, -k:] if values.shape[1] > k else np.tile(np.arange(values.shape[1]), (rows, 1))
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(values, best, axis=1), axis=1, kind="stable"), axis=1)
    weights = np.exp(np.take_along_axis(values, best, axis=1) - values.max(axis=1, keepdims=True))
    return np.take_along_axis(candidates, best, axis=1), weights / weights.sum(axis=1, keepdims=True)
