"""Changes to one row of logits that depend on the tokens before it: penalties, bias, minimum length, user hooks.

A processor belongs to one request. Its state covers the committed tokens, and it is told the path of draft tokens that leads to the row,
so that every node of a draft tree is treated exactly as in plain decoding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.params import LogitsHook, SamplingParams
from outpace.request import Request
from outpace.tree.draft import Draft


class Processor(ABC):
    """Changes one row of logits in place."""

    @abstractmethod
    def apply(self, row: Array, path: Sequence[int]) -> None:
        """row [V] float32, changed in place; path = draft tokens after the last committed token."""

    def commit(self, token_ids: Sequence[int]) -> None:
        """These tokens are committed."""
        return None

    def shape(self, draft: Draft, request: Request, budget: int, limit: int) -> Draft:
        """The draft behind `request.unconfirmed`, changed by what is certain about the next tokens: impossible nodes removed, forced
        ones added. At most `budget` nodes that may be wrong and `limit` nodes in all, lookahead tokens not counted."""
        return draft


class Penalties(Processor):
    """Repetition penalty over prompt and output (Keskar et al. 1909.05858), presence and frequency over the output (OpenAI)."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int]):
        self.repetition, self.presence, self.frequency = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        ids = np.unique(np.asarray(prompt, np.int64))
        self.ids = np.zeros(max(64, 2 * len(ids)), np.int64)  # tokens seen, in order of first use
        self.counts = np.zeros(len(self.ids), np.float32)  # occurrences in the output
        self.ids[: len(ids)] = ids
        self.index = {int(t): i for i, t in enumerate(ids)}

    def commit(self, token_ids: Sequence[int]) -> None:
        for token in token_ids:
            self._count(token, 1)

    def _count(self, token: int, step: int) -> None:
        at = self.index.setdefault(token, len(self.index))
        if at == len(self.ids):
            self.ids, self.counts = np.resize(self.ids, 2 * at), np.resize(self.counts, 2 * at)
            self.counts[at:] = 0
        self.ids[at] = token
        self.counts[at] += step

    def apply(self, row: Array, path: Sequence[int]) -> None:
        num_committed = len(self.index)
        for token in path:
            self._count(token, 1)
        ids, counts = self.ids[: len(self.index)], self.counts[: len(self.index)]
        values = row[ids]
        if self.repetition != 1.0:
            values = np.where(values > 0, values / np.float32(self.repetition), values * np.float32(self.repetition))
        row[ids] = values - np.float32(self.frequency) * counts - np.float32(self.presence) * (counts > 0)
        for token in reversed(path):  # undo: tokens first seen on the path are removed from the table
            self.counts[self.index[token]] -= 1
            if self.index[token] >= num_committed and self.counts[self.index[token]] == 0:
                del self.index[token]


class LogitBias(Processor):
    """Adds a constant to the logits of chosen tokens."""

    def __init__(self, bias: dict[int, float], vocab_size: int):
        if any(not 0 <= int(token) < vocab_size for token in bias):
            raise BadInputError(f"logit_bias names a token outside the vocabulary of {vocab_size}")
        self.ids = np.array([int(token) for token in bias], np.int64)
        self.values = np.array(list(bias.values()), np.float32)

    def apply(self, row: Array, path: Sequence[int]) -> None:
        row[self.ids] += self.values


class AllowedTokens(Processor):
    """Forbids all tokens but these."""

    def __init__(self, token_ids: Sequence[int], vocab_size: int):
        self.forbidden = np.ones(vocab_size, bool)
        self.forbidden[list(token_ids)] = False

    def apply(self, row: Array, path: Sequence[int]) -> None:
        row[self.forbidden] = -np.inf


class BadWords(Processor):
    """Forbids the last token of a sequence whose other tokens have just been written, in the answer."""

    def __init__(self, words: Sequence[Sequence[int]]):
        self.words = [list(word) for word in words if word]
        self.longest = max((len(word) for word in self.words), default=1)
        self.tail: list[int] = []  # the last tokens of the answer, as many as the longest word needs

    def commit(self, token_ids: Sequence[int]) -> None:
        self.tail = [*self.tail, *token_ids][-self.longest :]

    def apply(self, row: Array, path: Sequence[int]) -> None:
        before = [*self.tail, *path]
        for *start, last in self.words:
            if before[len(before) - len(start) :] == start:
                row[last] = -np.inf


class MinTokens(Processor):
    """Forbids end tokens before `min_tokens` tokens have been committed."""

    def __init__(self, min_tokens: int, stop_token_ids: frozenset[int]):
        self.missing, self.stop_ids = min_tokens, np.array(sorted(stop_token_ids), np.int64)

    def commit(self, token_ids: Sequence[int]) -> None:
        self.missing -= len(token_ids)

    def apply(self, row: Array, path: Sequence[int]) -> None:
        if len(path) < self.missing:
            row[self.stop_ids] = -np.inf


class Hook(Processor):
    """A user's callable `(token_ids so far, logits) -> logits`."""

    def __init__(self, hook: LogitsHook, prompt: Sequence[int]):
        self.hook, self.token_ids = hook, list(prompt)

    def commit(self, token_ids: Sequence[int]) -> None:
        self.token_ids.extend(token_ids)

    def apply(self, row: Array, path: Sequence[int]) -> None:
        result = np.asarray(self.hook([*self.token_ids, *path], row))
        if result.shape != row.shape:
            raise BadInputError(f"a logits_processors callable must return the logits, shape {row.shape}, not shape {result.shape}")
        row[:] = result


def build_processors(params: SamplingParams, prompt: Sequence[int], stop_token_ids: frozenset[int], vocab_size: int) -> list[Processor]:
    """The processors that `params` asks for, in the order they are applied; an empty list if none is needed."""
    used = {"stop_token_ids": params.stop_token_ids, "allowed_token_ids": params.allowed_token_ids or ()}
    for name, token_ids in (used | {"bad_words_ids": sum(params.bad_words_ids, ())}).items():
        if any(token >= vocab_size for token in token_ids):
            raise BadInputError(f"{name} has a token outside the vocabulary of {vocab_size}")
    found: list[Processor] = [Hook(hook, prompt) for hook in params.logits_processors]
    if params.logit_bias:
        found.append(LogitBias(params.logit_bias, vocab_size))
    if (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1.0, 0.0, 0.0):
        found.append(Penalties(params, prompt))
    ends = frozenset(token for token in stop_token_ids if token < vocab_size)  # a model's config may name others
    if params.min_tokens and ends:
        found.append(MinTokens(params.min_tokens, ends))
    if params.allowed_token_ids:
        found.append(AllowedTokens(params.allowed_token_ids, vocab_size))
    if params.bad_words_ids:
        found.append(BadWords([tuple(word) for word in params.bad_words_ids]))
    return found
