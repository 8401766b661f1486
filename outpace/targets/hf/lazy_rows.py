"""Outputs of a forward pass that stay on the device until they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from outpace.arrays import Array


class LazyRows:
    """Rows [n, V] of a tensor on the device, which reads like a float32 array. One row is copied alone; anything else copies all rows of
    the forward pass, once. A slice shares what has been copied."""

    def __init__(self, source: Source, start: int, stop: int):
        self.source, self.start, self.stop = source, start, stop

    @classmethod
    def of(cls, tensor: Any, index: Any) -> LazyRows:
        """The rows `index` [n], on the host, of a tensor, which must not change until they have been read."""
        return cls(Source(tensor, index), 0, len(index))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.source.tensor.shape[1]

    @property
    def array(self) -> Array:
        """All rows."""
        return self.source.array[self.start : self.stop]

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Array]:
        return iter(self.array)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(len(self))
            return LazyRows(self.source, self.start + start, self.start + max(start, stop))
        if isinstance(key, (int, np.integer)) and -len(self) <= key < len(self):
            return self.source.row(self.start + int(key) % len(self))
        return self.array[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.array, dtype, copy=copy)


class Source:
    """The tensor, the rows of it that are outputs, and their copy once it has been made."""

    def __init__(self, tensor: Any, index: Any):
        self.tensor, self.index = tensor, index
        self.copied: Array | None = None

    @property
    def array(self) -> Array:
        """All rows on the host."""
        copied = self.copied
        if copied is None:
            copied = self.copied = np.asarray(self.tensor[self.index].float().cpu().numpy())
        return copied

    def row(self, number: int) -> Array:
        """One row on the host."""
        if self.copied is not None:
            row: Array = self.copied[number]
        else:
            row = self.tensor[int(self.index[number])].float().cpu().numpy()
        return row
