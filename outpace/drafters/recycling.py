"""Token recycling (2408.08696): what the model thought of next, the last times it saw this token, or this pair of tokens.

Every verified row, accepted or not, says which tokens the model found likeliest after the row's token. Two tables keep those,
with their probabilities: one by the row's token, one by the token and the one before it, which knows more and has seen less.
Repeated visits are averaged. A tree is grown best first. The tables outlive requests, so they get better with use; they start
empty and then guess nothing. What one memory scope has taught never serves another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from outpace.core import Array, Capabilities, Draft, Request, Verdict
from outpace.drafters.base import Drafter, DrafterContext, grow, tail
from outpace.errors import BadInputError
from outpace.targets.base import TargetOutput

FOLDS = 64  # the vocabulary is searched column by column, each of so many tokens
NEW = 0.5  # weight of the newest visit against all before
PAIR, AFTER_PAIR, ALONE = (0.45, 0.45), (0.4, 0.4), (0.5, 0.35)  # (a, b): an entry whose largest chance is c is trusted to a + b * c


class SuccessorTable:
    """key -> the `width` likeliest next tokens and their chances, best first. `size` slots, one key each: the newest key stays."""

    def __init__(self, size: int, width: int):
        self.keys = np.full(size, -1, np.int64)
        self.tokens = np.zeros((size, width), np.int32)
        self.chances = np.zeros((size, width), np.float32)

    def get(self, key: int) -> tuple[list[int], list[float]]:
        """(tokens, chances) of a key; empty lists if it is not there."""
        slot = key % len(self.keys)
        if self.keys[slot] != key:
            return [], []
        return self.tokens[slot].tolist(), self.chances[slot].tolist()

    def update(self, keys: Array, tokens: Array, chances: Array) -> None:
        """Average new successors [rows, width] into the entries of `keys` [rows]; of equal keys the last row counts."""
        slots = keys % len(self.keys)
        is_known = (self.keys[slots] == keys)[:, None]
        known, weights = self.tokens[slots], np.where(is_known, (1 - NEW) * self.chances[slots], 0)
        same = known[:, :, None] == tokens[:, None, :]
        chances = np.where(is_known, NEW * chances, chances) + (same * weights[:, :, None]).sum(axis=1)
        chances = np.concatenate([chances, np.where(same.any(axis=2), 0, weights)], axis=1)
        best = np.argsort(-chances, axis=1, kind="stable")[:, : tokens.shape[1]]
        self.keys[slots] = keys
        self.tokens[slots] = np.take_along_axis(np.concatenate([tokens, known], axis=1), best, axis=1)
        self.chances[slots] = np.take_along_axis(chances, best, axis=1)


@dataclass(frozen=True)
class Tables:
    """What one memory scope has taught: successors of a token, and of a pair of tokens."""

    single: SuccessorTable
    pair: SuccessorTable


class RecyclingDrafter(Drafter):
    """successors: kept for each entry. pairs: slots for pairs of tokens. scopes: memory scopes kept, the latest used ones.

    threshold: nodes less likely than this are not worth their row.
    """

    requires = Capabilities(tree=True)
    num_draft_tokens = 10

    def __init__(self, context: DrafterContext, successors: int = 8, threshold: float = 0.02, pairs: int = 32768, scopes: int = 8):
        if min(successors, pairs, scopes) < 1 or not 0 < threshold < 1:
            raise BadInputError("recycling: need successors, pairs and scopes of at least 1 and 0 < threshold < 1")
        self.vocab_size, self.threshold = context.vocab_size, threshold
        self.num_successors, self.num_pairs, self.num_scopes = min(successors, context.vocab_size), pairs | 1, scopes  # odd: see _pair
        self.scopes: OrderedDict[str, Tables] = OrderedDict()

    def propose(self, request: Request, budget: int) -> Draft:
        return grow(lambda path: self.successors(request, path), budget, self.threshold)

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        tables = self.scopes.get(request.memory_scope)
        if tables is None:
            return ()
        end = tail(request, 2, path)
        tokens, chances = tables.pair.get(self._pair(*end)) if len(end) == 2 else ([], [])
        found, left, trust_single = dict[int, float](), 1.0, ALONE
        if tokens:
            trust = PAIR[0] + PAIR[1] * chances[0]
            found, left, trust_single = {t: trust * c for t, c in zip(tokens, chances, strict=True)}, 1.0 - trust, AFTER_PAIR
        tokens, chances = tables.single.get(end[-1])
        if tokens:
            trust = left * (trust_single[0] + trust_single[1] * chances[0])
            for token, chance in zip(tokens, chances, strict=True):
                found[token] = found.get(token, 0.0) + trust * chance
        return sorted(found.items(), key=lambda item: -item[1])[: self.num_successors]

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        tokens, chances = likeliest(output.logits, self.num_successors)
        rows = np.asarray(output.token_ids, np.int64)
        on_path = [0, *(node + 1 for node in verdict.path)]  # written last, so that they win over guesses of the same token
        order = np.array([*sorted(set(range(len(rows))).difference(on_path)), *on_path])
        tables = self._tables(request.memory_scope)
        tables.single.update(rows[order], tokens[order], chances[order])
        before = self._before(request, verdict, output.token_ids)
        order = order[before[order] >= 0]
        tables.pair.update(self._pair(before, rows)[order], tokens[order], chances[order])

    def _before(self, request: Request, verdict: Verdict, rows: Sequence[int]) -> Array:
        """The token before each row's token; -1 where it is not known."""
        end = tail(request, len(verdict.path) + 3)[:2]  # before the step the text ended so
        first = end[0] if len(end) == 2 and end[1] == rows[0] else -1
        return np.array([first, *(rows[parent + 1] for parent in verdict.draft.parents)], np.int64)

    def _pair(self, before: Any, token: Any) -> Any:
        """The key of a pair of tokens, or the keys of arrays of them.

        Vocabularies are often multiples of a power of 2; an odd number of slots spreads the pairs still.
        """
        return before * self.vocab_size + token

    def _tables(self, scope: str) -> Tables:
        """The tables of a scope, made if need be; the scope that has not learnt for the longest time is forgotten."""
        if scope not in self.scopes:
            self.scopes[scope] = Tables(
                SuccessorTable(self.vocab_size, self.num_successors), SuccessorTable(self.num_pairs, self.num_successors)
            )
        self.scopes.move_to_end(scope)
        while len(self.scopes) > self.num_scopes:
            self.scopes.popitem(last=False)
        return self.scopes[scope]


def likeliest(logits: Array, k: int) -> tuple[Array, Array]:
    """(tokens [rows, k], chances [rows, k]) of the k largest logits of each row, best first.

    Chances are probabilities over the whole row; of a long row only the largest token of each column counts into its sum, which is
    where the mass is. Every row of every step passes here, so each look at the logits counts.
    """
    rows, size = logits.shape
    width = size // FOLDS  # column c has the tokens c, c + width, c + 2 * width, …
    if width < 4 * k:
        candidates = np.broadcast_to(np.arange(size), (rows, size))
        maxima = logits
    else:
        maxima = logits[:, : width * FOLDS].reshape(rows, FOLDS, width).max(axis=1)
        columns = np.argpartition(maxima, -k, axis=1)[:, -k:]  # the k largest stand in the k columns with the largest maxima
        candidates = (columns[:, :, None] + width * np.arange(FOLDS)).reshape(rows, -1)
        if width * FOLDS < size:
            candidates = np.concatenate([candidates, np.tile(np.arange(width * FOLDS, size), (rows, 1))], axis=1)
            maxima = np.concatenate([maxima, logits[:, width * FOLDS :]], axis=1)
    values = np.take_along_axis(logits, candidates, axis=1)
    best = np.argpartition(values, -k, axis=1)[:, -k:] if values.shape[1] > k else np.tile(np.arange(values.shape[1]), (rows, 1))
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(values, best, axis=1), axis=1, kind="stable"), axis=1)
    found = np.take_along_axis(values, best, axis=1)
    sums = np.exp(maxima - found[:, :1]).sum(axis=1)
    weights = np.exp(found - found[:, :1])
    return np.take_along_axis(candidates, best, axis=1), weights / np.maximum(sums, weights.sum(axis=1))[:, None]
