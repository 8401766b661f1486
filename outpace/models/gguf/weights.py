"""Requantises the matrices of a GGUF file to the number formats of OpenVINO's CPU kernels.

8 bits: symmetric, one scale per row. 4 bits: asymmetric, one scale and one integer zero point per group of columns.
A matrix is processed in blocks of rows on a few threads, as numpy releases the GIL while it computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.models.gguf.names import Parameter

GROUP = 64  # columns that share a scale; with 32, a forward pass of 2 tokens takes 20% longer
PIECE = 1 << 20  # values requantised at once; they fit into the cache of a core
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Floats:
    """A matrix [rows, columns], float16 or float32."""

    values: Array


@dataclass(frozen=True)
class Rows8:
    """A matrix in 8 bits: `numbers` [rows, columns] int8, times `scales` [rows, 1] float16."""

    numbers: Array
    scales: Array


@dataclass(frozen=True)
class Groups4:
    """A matrix in 4 bits: (`numbers` - `zeros`) times `scales`. `shape` is [rows, groups, columns per group]; `zeros` and `scales` are
    [rows, groups, 1]. Numbers and zeros are 0 to 15, packed two per byte with the first in the low bits; scales are float16."""

    shape: tuple[int, int, int]
    numbers: Array
    zeros: Array
    scales: Array


Weight = Floats | Rows8 | Groups4


def floats(parameter: Parameter, dtype: type[np.floating]) -> Floats:
    """Load a matrix unquantised, in 16 or 32 bits."""
    values = np.empty(parameter.tensor.shape, dtype)

    def work(start: int, end: int) -> None:
        values[start:end] = parameter.rows(start, end)

    _by_pieces(parameter, work)
    return Floats(values)


def rows8(parameter: Parameter) -> Rows8:
    """Load a matrix in 8 bits, from any format of the file."""
    shape = parameter.tensor.shape
    numbers, scales = np.empty(shape, np.int8), np.empty((shape[0], 1), np.float16)

    def work(start: int, end: int) -> None:
        values = parameter.rows(start, end)
        scale = (np.abs(values).max(1, keepdims=True) / 127).astype(np.float16)
        values *= _inverse(scale)
        np.rint(values, out=values)
        np.clip(values, -127, 127, out=values)
        numbers[start:end], scales[start:end] = values, scale

    _by_pieces(parameter, work)
    return Rows8(numbers, scales)


def groups4(parameter: Parameter, group: int = GROUP) -> Groups4:
    """Load a matrix in 4 bits, from any format of the file. The number of columns must be a multiple of `group`."""
    num_rows, num_columns = parameter.tensor.shape
    shape = (num_rows, num_columns // group, group)
    numbers = np.empty((num_rows, num_columns // 2), np.uint8)
    zeros, scales = np.empty((num_rows, shape[1], 1), np.uint8), np.empty((num_rows, shape[1], 1), np.float16)

    def work(start: int, end: int) -> None:
        values = parameter.rows(start, end).reshape(-1, *shape[1:])
        low = np.minimum(values.min(-1, keepdims=True), 0)  # so that 0 is representable
        scale = ((np.maximum(values.max(-1, keepdims=True), 0) - low) / 15).astype(np.float16)
        inverse = _inverse(scale)
        zero = np.rint(-low * inverse).clip(0, 15)
        values *= inverse
        values += zero
        np.rint(values, out=values)
        np.clip(values, 0, 15, out=values)
        numbers[start:end] = packed(values.astype(np.uint8)).reshape(end - start, -1)
        zeros[start:end], scales[start:end] = zero, scale

    _by_pieces(parameter, work)
    return Groups4(shape, numbers, packed(zeros), scales)


def packed(numbers: Array) -> Array:
    """Pack 4-bit numbers two per byte, the first in the low bits; an odd count is padded with a 0."""
    flat = numbers.reshape(-1)
    flat = np.append(flat, np.uint8(0)) if len(flat) % 2 else flat
    pairs: Array = flat[0::2] | flat[1::2] << 4
    return pairs


def _inverse(scale: Array) -> Array:
    """1 / scale in float32; 0 where the scale is 0, because all values are 0 there."""
    wide = scale.astype(np.float32)
    inverse: Array = np.divide(1, wide, out=np.zeros_like(wide), where=wide > 0)
    return inverse


def _by_pieces(parameter: Parameter, work: Callable[[int, int], None]) -> None:
    """Run `work(start, end)` over all rows, in blocks of about PIECE values, on THREADS threads."""
    num_rows, num_columns = parameter.tensor.shape
    step = max(1, PIECE // num_columns)
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, start, min(start + step, num_rows)) for start in range(0, num_rows, step)]:
            done.result()
