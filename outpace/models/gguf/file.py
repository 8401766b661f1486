"""The contents of a GGUF file: its metadata by name, and the location of its tensors.

Tensors are read row by row, so that none has to fit into memory as a whole.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from outpace.arrays import Array
from outpace.errors import BadInputError

VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # value type -> struct code
_STRING, _ARRAY = 8, 9  # value types
_MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class Tensor:
    """A matrix [rows, columns] or vector [columns] in the file, stored in the file's own number format."""

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int  # position of its first byte in the file

    @property
    def num_rows(self) -> int:
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def row_bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.kind]
        return int(self.shape[-1] // block * size)

    def raw(self, start: int = 0, end: int | None = None) -> Array:
        """Raw bytes of rows start to end - 1: [rows, row_bytes] uint8."""
        count = (self.num_rows if end is None else end) - start
        first = self.offset + start * self.row_bytes
        data: Array = np.fromfile(self.path, np.uint8, count * self.row_bytes, offset=first)
        return data.reshape(count, self.row_bytes)

    def rows(self, start: int = 0, end: int | None = None) -> Array:
        """Values of rows start to end - 1: [rows, columns] float32."""
        values: Array = dequantize(self.raw(start, end), self.kind)
        return values

    def vector(self) -> Array:
        """Values of a vector: [columns] float32."""
        (row,) = self.rows()
        return cast(Array, row)

    def values(self, places: Array) -> Array:
        """Values at flat, row-major indices: [places] float32. Reads only the blocks that contain them."""
        length, size = GGML_QUANT_SIZES[self.kind]
        num_bytes = self.num_rows * self.row_bytes
        blocks = np.memmap(self.path, np.uint8, "r", self.offset, (num_bytes // size, size))[places // length]
        values: Array = dequantize(np.ascontiguousarray(blocks), self.kind)[np.arange(len(places)), places % length]
        return values


@dataclass(frozen=True)
class GGUFFile:
    """Metadata and tensors of a file, both by their GGUF names."""

    path: Path
    facts: dict[str, Any]
    tensors: dict[str, Tensor]


def read(path: Path) -> GGUFFile:
    """Read the header of a GGUF file. Raises BadInputError if it is not a GGUF file, is truncated or uses unknown number formats."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data)
            facts = dict(header.facts())
            tensors = list(header.tensors())
            start = header.aligned(int(facts.get("general.alignment", 32)))
    except (struct.error, ValueError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise BadInputError(f"{path.name} is no GGUF file that can be read: {error}") from error
    found = {name: Tensor(path, name, shape, kind, start + offset) for name, shape, kind, offset in tensors}
    for tensor in found.values():
        if tensor.shape[-1] % GGML_QUANT_SIZES[tensor.kind][0]:
            raise BadInputError(f"{path.name}: rows of {tensor.name} do not divide into blocks of {tensor.kind.name}")
        if tensor.offset + tensor.num_rows * tensor.row_bytes > size:
            raise BadInputError(f"{path.name} is cut off: {tensor.name} ends behind the end of the file")
    return GGUFFile(path, facts, found)


class _Header:
    """Reads the header sequentially. Numbers are little-endian; strings are UTF-8, preceded by their length."""

    def __init__(self, data: Any):
        self.data, self.place = data, 0
        magic, version = data[:4], self._at(4, "I")
        if magic != b"GGUF":
            raise ValueError("it does not begin with 'GGUF'")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}; known: {', '.join(map(str, VERSIONS))}")
        self.num_tensors, self.num_facts = self._number("Q"), self._number("Q")

    def _at(self, place: int, code: str) -> Any:
        self.place = place
        return self._number(code)

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.place)
        self.place += struct.calcsize(f"<{code}")
        return value

    def _string(self) -> str:
        length = self._number("Q")
        start, self.place = self.place, self.place + length
        if self.place > len(self.data):
            raise ValueError("it is cut off")
        return str(self.data[start : self.place], "utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        inner, length = self._number("I"), self._number("Q")
        if inner in (_STRING, _ARRAY):
            return [self._value(inner) for _ in range(length)]
        values = struct.unpack_from(f"<{length}{_SCALARS[inner]}", self.data, self.place)
        self.place += struct.calcsize(f"<{length}{_SCALARS[inner]}")
        return list(values)

    def facts(self) -> Iterator[tuple[str, Any]]:
        for _ in range(self.num_facts):
            name = self._string()
            yield name, self._value(self._number("I"))

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], GGMLQuantizationType, int]]:
        """Yield (name, shape with the slowest dimension first, number format, offset from the end of the header)."""
        for _ in range(self.num_tensors):
            name, num_dimensions = self._string(), self._number("I")
            if num_dimensions > _MAX_DIMENSIONS:
                raise ValueError(f"{name} has {num_dimensions} dimensions")
            shape = tuple(self._number("Q") for _ in range(num_dimensions))[::-1]
            yield name, shape, GGMLQuantizationType(self._number("I")), self._number("Q")

    def aligned(self, alignment: int) -> int:
        """Position of the first tensor: the end of the header, rounded up to the alignment."""
        return -(-self.place // alignment) * alignment
