"""From logits to a token: the only file that warps probabilities. Its randomness comes from noise.py, so neither the drafter, the batch
nor the number of draws changes the text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling.noise import arrival_times, few_arrival_times, winner
from outpace.sampling.processors import Processor
from outpace.tree.draft import Draft
from outpace.tree.segment import Drawing


def _largest(row: Array, k: int) -> Array:
    """Indices of the k largest values, in ascending index order; equal values at the edge: lowest index first."""
    candidates = np.arange(len(row)) if k > len(row) // 64 else _above_block_maxima(row, k)
    values = row[candidates]
    edge = np.partition(values, len(values) - k)[len(values) - k]
    above = candidates[values > edge]
    return np.sort(np.concatenate([above, candidates[values == edge][: k - len(above)]]))


def _descending(row: Array, k: int) -> Array:
    """Indices of the k largest values, largest first. Raises OutpaceError if the largest is NaN or -inf."""
    if k == 1:
        return np.array([_argmax(row)])
    _check(float(row.max()))
    largest = _largest(row, min(k, len(row)))
    return np.asarray(largest[np.argsort(-row[largest], kind="stable")])


def _above_block_maxima(row: Array, k: int) -> Array:
    """Indices of a few values that include the k largest: the k-th largest of the maxima of blocks of 64 bounds them from below."""
    whole = len(row) // 64 * 64
    maxima = row[:whole].reshape(-1, 64).max(axis=1)
    return np.flatnonzero(row >= np.partition(maxima, len(maxima) - k)[len(maxima) - k])


def _nucleus(row: Array, top_p: float) -> Array:
    """Indices of the smallest set of tokens whose probability reaches top_p, ascending; row [n] = logits / temperature, best 0."""
    goal = top_p * float(np.exp(row).sum(dtype=np.float64)) * (1 - 1e-12)
    for size in (64, 512, 4096, len(row)):  # a full sort only where the distribution is flat
        size = min(size, len(row))
        values = np.sort(row[_largest(row, size)] if size < len(row) else row)[::-1]
        reached = np.cumsum(np.exp(values), dtype=np.float64)
        if reached[-1] >= goal or size == len(row):
            break
    return _largest(row, min(int(np.searchsorted(reached, goal, side="left")) + 1, size))


FORBIDDING = ("allowed_token_ids", "bad_words_ids", "logit_bias")  # settings that forbid tokens
NUM_RACERS = 64  # likeliest tokens of a draft model that race for a guess
LOGIT, NOISE, REST = 1.2, 1.05, 1.7  # weights of a guess, fitted to draws of coder-1.5b and logits of coder-0.5b (dev/LOG.md)


class RequestSampler:
    """Draws the tokens of one request. `path` is the draft tokens between the last committed token and the row."""

    def __init__(self, params: SamplingParams, seed: int, processors: Sequence[Processor] = ()):
        self.params, self.seed, self.processors = params, seed, list(processors)
        self.is_cut = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0

    @property
    def drawing(self) -> Drawing | None:
        """How draw() works, for a target that draws itself; None where the logits are changed first."""
        return None if self.processors else Drawing(self.params, self.seed)

    def commit(self, token_ids: Sequence[int]) -> None:
        for processor in self.processors:
            processor.commit(token_ids)

    def shape(self, draft: Draft, request: Request, budget: int, limit: int) -> Draft:
        """The draft as all processors shape it (see Processor.shape); unchanged if nothing may be drafted."""
        for processor in self.processors if budget > 0 else ():
            draft = processor.shape(draft, request, budget, limit)
        return draft

    def process(self, row: Array, path: Sequence[int]) -> Array:
        """Logits after the processors; the row itself when there are none, a copy otherwise."""
        if not self.processors:
            return row
        row = row.copy()
        for processor in self.processors:
            processor.apply(row, path)
        return row

    def draw(self, row: Array, path: Sequence[int], position: int) -> int:
        """The token that plain decoding would choose at this absolute position after this path; row [V]: raw logits.

        Raises OutpaceError when the largest logit is NaN or -inf, so that there is nothing to choose, and BadInputError when that is due to
        the request's settings.
        """
        processed = self.process(row, path)
        with self._blaming(row, processed):
            if self.params.is_greedy:
                return _argmax(processed)
            ids, weights = self._weights(processed)
        index = winner(weights, self.seed, position, ids)
        return index if ids is None else int(ids[index])

    @contextmanager
    def _blaming(self, row: Array, processed: Array) -> Iterator[None]:
        """Raises BadInputError for an OutpaceError that is due to the request's settings."""
        try:
            yield
        except OutpaceError as error:
            own = [name for name in FORBIDDING if getattr(self.params, name)]
            if own and processed.max() == -math.inf < row.max():
                raise BadInputError(f"{own[0]} leaves no token that the other settings allow") from error
            raise

    def arrival_times(self, position: int, token_ids: Sequence[int]) -> list[float]:
        """The noise of the draw at this position: how late each of these tokens arrives (see noise.py)."""
        return few_arrival_times(self.seed, position, token_ids)

    def foresee(self, row: Array, path: Sequence[int], position: int, num_tokens: int) -> tuple[Array, Array]:
        """The tokens [n] that draw() will most probably give, n <= num_tokens, best first, and the probabilities [n] of being right, if the
        target's logits are near `row` [V], those of a draft model. Raises what draw() raises.

        The row is processed as the target's, and the tokens race with the same noise.
        """
        row, params = self.process(row, path), self.params
        if params.is_greedy:
            best = _descending(row, num_tokens)
            return best, np.exp(row[best] - row[best[0]]) / np.exp(row - row[best[0]]).sum()
        ids, weights = self._weights(row)
        likeliest = _descending(weights, NUM_RACERS)
        tokens, shares = likeliest if ids is None else ids[likeliest], weights[likeliest] / weights.sum(dtype=np.float64)
        tokens, shares = tokens[shares > 0], shares[shares > 0]
        left = max(1.0 - float(shares.sum()), 1e-9)
        scores = params.temperature * (LOGIT * np.log(shares) - NOISE * np.log(arrival_times(self.seed, position, tokens)))
        best = _descending(scores, num_tokens)
        chances = np.exp(scores - scores[best[0]])
        rest = math.exp(min(50.0, params.temperature * LOGIT * math.log(left) + REST - float(scores[best[0]])))
        return tokens[best], chances[best] / (chances.sum() + rest)

    def probabilities(self, row: Array, path: Sequence[int]) -> Array:
        """The distribution [V] float64 that draw() draws from; one-hot at temperature 0. Raises what draw() raises."""
        processed, out = self.process(row, path), np.zeros(len(row))
        with self._blaming(row, processed):
            if self.params.is_greedy:
                out[_argmax(processed)] = 1.0
                return out
            ids, weights = self._weights(processed)
        weights = weights / weights.sum(dtype=np.float64)
        if ids is None:
            return np.asarray(weights, np.float64)
        out[ids] = weights
        return out

    def _weights(self, row: Array) -> tuple[Array | None, Array]:
        """(token ids or None for all, unnormalised probabilities) after temperature, then top_k, top_p, min_p (transformers' order)."""
        params = self.params
        top = row.max()
        _check(float(top), math.inf)
        row = row - top
        row *= np.float32(1.0 / params.temperature)
        if not self.is_cut:
            return None, np.exp(row, out=row)
        ids = _largest(row, params.top_k) if 0 < params.top_k < len(row) else np.arange(len(row))
        row = row[ids]
        if params.top_p < 1.0:
            kept = _nucleus(row, params.top_p)
            ids, row = ids[kept], row[kept]
        if params.min_p > 0.0:
            kept = row >= np.log(params.min_p)  # the best token has log weight 0
            ids, row = ids[kept], row[kept]
        return ids, np.exp(row)


def _argmax(row: Array) -> int:
    """The first of the largest logits. NumPy's argmax finds a NaN if there is one, so looking at the chosen logit is enough."""
    token = int(row.argmax())
    _check(float(row[token]))
    return token


def _check(top: float, limit: float | None = None) -> None:
    """Raises OutpaceError unless the largest logit of a row can be chosen; from `limit` on it cannot be."""
    if not top > -math.inf or top == limit:
        raise OutpaceError("the logits are NaN" if math.isnan(top) else f"no token can be chosen: the largest logit is {top}")


def logprobs_of(row: Array, token: int, num_top: int) -> dict[int, float]:
    """Log-probabilities of the chosen token and of the `num_top` best, from the model's raw logits [V] (vLLM's default)."""
    top = row.max()
    log_total = float(top) + float(np.log(np.exp(row - top).sum(dtype=np.float64)))
    best = _largest(row, min(num_top, len(row))) if num_top else np.empty(0, np.int64)
    best = best[np.argsort(-row[best], kind="stable")]
    return {int(t): float(row[t]) - log_total for t in [token, *best.tolist()]}
