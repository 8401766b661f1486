"""Requantises the matrices of a GGUF file to the number formats of OpenVINO's CPU kernels.

8 bits: symmetric, one scale per row. 4 bits: symmetric, one scale per group of columns, fitted by least squares. Zero points would make
the error 5% smaller, and a forward pass of 2 to 8 tokens 10% slower.
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
SHRINKS = (0.95, 0.85, 0.75)  # scales tried for 4 bits, relative to the one that just represents the largest value of a group
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
    """A matrix in 4 bits: `numbers` times `scales`. `shape` is [rows, groups, columns per group]; `scales` [rows, groups, 1] are float16.
    Numbers are -8 to 7 in two's complement, packed two per byte with the first in the low bits."""

    shape: tuple[int, int, int]
    numbers: Array
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
    numbers, scales = np.empty((num_rows, num_columns // 2), np.uint8), np.empty((num_rows, shape[1], 1), np.float16)

    def work(start: int, end: int) -> None:
        values = parameter.rows(start, end).reshape(-1, *shape[1:])
        rounded, scales[start:end] = _fitted4(values)
        numbers[start:end] = packed(rounded.astype(np.int8).view(np.uint8) & 15).reshape(end - start, -1)

    _by_pieces(parameter, work)
    return Groups4(shape, numbers, scales)


def _fitted4(values: Array) -> tuple[Array, Array]:
    """(whole numbers -8 to 7 [..., columns], scales [..., 1]) whose products are near `values`: for each scale tried the numbers are
    rounded, then the scale of least squared error for these numbers is known; the best of the trials is taken."""
    largest = np.take_along_axis(values, np.abs(values).argmax(-1, keepdims=True), -1)
    numbers, scales, best = np.zeros_like(values), np.zeros_like(largest), np.zeros_like(largest)
    for shrink in SHRINKS:
        tried = values * _inverse(largest * np.float32(shrink / -8))
        np.rint(tried, out=tried)
        np.clip(tried, -8, 7, out=tried)
        product, square = _dots(tried, values), _dots(tried, tried)
        scale = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
        is_better = product * scale > best  # the squared error is sum(values^2) - product * scale
        np.copyto(numbers, tried, where=is_better)
        np.copyto(scales, scale, where=is_better)
        np.copyto(best, product * scale, where=is_better)
    return numbers, scales


def _dots(a: Array, b: Array) -> Array:
    """Sums of products along the last axis, which stays with length 1."""
    sums: Array = np.einsum("...c,...c->...", a, b)[..., None]
    return sums


def packed(numbers: Array) -> Array:
    """Pack 4-bit numbers two per byte, the first in the low bits; an odd count is padded with a 0."""
    flat = numbers.reshape(-1)
    flat = np.append(flat, np.uint8(0)) if len(flat) % 2 else flat
    pairs: Array = flat[0::2] | flat[1::2] << 4
    return pairs


def _inverse(scale: Array) -> Array:
    """1 / scale in float32; 0 where the scale is 0, because all values are 0 there."""
    wide = scale.astype(np.float32)
    inverse: Array = np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)
    return inverse


def _by_pieces(parameter: Parameter, work: Callable[[int, int], None]) -> None:
    """Run `work(start, end)` over all rows, in blocks of about PIECE values, on THREADS threads."""
    num_rows, num_columns = parameter.tensor.shape
    step = max(1, PIECE // num_columns)
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, start, min(start + step, num_rows)) for start in range(0, num_rows, step)]:
            done.result()
