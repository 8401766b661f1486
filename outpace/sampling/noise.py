"""The noise of every draw: an exponential race whose arrival times are a pure function of (seed, absolute position, token id).

The token with the largest weight / arrival time wins, which happens with probability proportional to its weight (the Gumbel-max trick).
The noise goes by token id, so cuts, penalties and grammars leave that of the remaining tokens as it is. A drafter that knows a distribution
near the target's can therefore draw with the same noise and mostly draws the same token (Daliri et al. 2408.07978).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from outpace.arrays import Array

_MASK = (1 << 64) - 1
_UNIT = 2.0**-32
FACTORS = 0x7FEB352D, 0x846CA68B  # of lowbias32
_SCREENING = 1 - 1e-5  # slack for the float32 rounding of the bounds


def uniform(seed: int, position: int, draw: int = 0) -> float:
    """A number in [0, 1) from (seed, position, draw)."""
    return (_mixed(seed, position, draw) >> 11) * 2.0**-53


def arrival_times(seed: int, position: int, token_ids: Array) -> Array:
    """The arrival times [n] float64 of tokens [n] int at a position: independent, exponential with mean 1, always finite and above 0."""
    token_ids = token_ids.astype(np.uint32)
    bits = np.empty_like(token_ids)
    _hash(token_ids, seed, position, bits, np.empty_like(bits))
    return _times(bits)


def few_arrival_times(seed: int, position: int, token_ids: Sequence[int]) -> list[float]:
    """The same without arrays, which for some ten tokens takes a quarter of the time: drafters ask for the children of every node."""
    multiplier, offset = key_of(seed, position)
    times = []
    for token in token_ids:
        x = (token * multiplier + offset) & 0xFFFFFFFF
        x = (x ^ (x >> 16)) * FACTORS[0] & 0xFFFFFFFF
        x = (x ^ (x >> 15)) * FACTORS[1] & 0xFFFFFFFF
        times.append(-math.log1p(-((x ^ (x >> 16)) + 0.5) * _UNIT))
    return times


def winner(weights: Array, seed: int, position: int, token_ids: Array | None = None) -> int:
    """The index of the token that wins the race at a position; weights [n] float32 from 0 to 1, not all 0; tokens of weight 0 never win.

    `token_ids` [n]: the tokens of the weights; None: token i has weight i. Times are computed only for tokens that may win: -log1p(-u) is
    at least u, so weight / u is a bound.
    """
    size = len(weights)
    bits, scratch, bounds = _buffers.of(size)
    _hash(_buffers.tokens(size) if token_ids is None else token_ids.astype(np.uint32), seed, position, bits, scratch)
    bounds[:] = bits
    bounds += np.float32(0.5)
    np.divide(weights, bounds, out=bounds)
    first = bounds.argmax()
    least = weights[first] / _times(bits[first]) * _UNIT
    places = np.flatnonzero(bounds >= np.float32(least * _SCREENING))
    return int(places[(weights[places] / _times(bits[places])).argmax()])


def _mixed(*parts: int) -> int:
    """64 bits from some integers: splitmix64 (Steele et al. 2014), chained once per part."""
    x = 0
    for part in parts:
        x = (x + part + 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x


@lru_cache(1024)
def key_of(seed: int, position: int) -> tuple[int, int]:
    """(multiplier, offset) of the tokens at a position, 32 bits each."""
    key = _mixed(seed, position)
    return key & 0xFFFFFFFF | 1, key >> 32


def _hash(token_ids: Array, seed: int, position: int, bits: Array, scratch: Array) -> None:
    """Write 32 random bits for each token [n] uint32: lowbias32 (Wellons 2018) of the token times one half of a 64-bit key, made odd, plus
    the other half. Different tokens never have equal bits. `scratch` [n] uint32 is overwritten."""
    multiplier, offset = key_of(seed, position)
    np.multiply(token_ids, np.uint32(multiplier), out=bits)
    bits += np.uint32(offset)
    for shift, factor in zip((16, 15), FACTORS, strict=True):
        np.right_shift(bits, shift, out=scratch)
        bits ^= scratch
        bits *= np.uint32(factor)
    np.right_shift(bits, 16, out=scratch)
    bits ^= scratch


def _times(bits: Array) -> Array:
    """Exponential numbers [n] float64 from bits [n]. log1p: in float32, log(1 - u) would be 0 for the smallest u, and these always win."""
    return -np.log1p(-(bits + 0.5) * _UNIT)


class _Buffers(threading.local):
    """Work space of each thread for the last number of tokens: a new array for every draw would cost as much as the hash."""

    def __init__(self) -> None:
        self.arrays: tuple[Array, Array, Array] | None = None
        self.token_ids = np.empty(0, np.uint32)

    def of(self, size: int) -> tuple[Array, Array, Array]:
        """(bits, scratch, bounds), [size] each."""
        if self.arrays is None or len(self.arrays[0]) < size:
            self.arrays = np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size, np.float32)
        bits, scratch, bounds = self.arrays
        return bits[:size], scratch[:size], bounds[:size]

    def tokens(self, size: int) -> Array:
        """0, 1, 2, ... [size]."""
        if len(self.token_ids) < size:
            self.token_ids = np.arange(size, dtype=np.uint32)
        return self.token_ids[:size]


_buffers = _Buffers()
