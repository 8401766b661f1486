"""K/V of many sequences in the cache interface of transformers: one layer, and the place of the running forward pass in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import CacheLayerMixin


@dataclass
class Place:
    """Which rows of the buffers the running forward pass writes and reads; one object, shared by all layers."""

    num_places: int = 0  # of new buffers
    num_rows: int = 0
    places: Any = None  # [B, 1] place of each sequence
    rows: Any = None  # [B, T] row of each token
    first: int = 0  # place of the first sequence; the others follow it
    read_len: int = 0


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """K/V of one layer, [places, kv_heads, rows, head_dim]. The first tensors stored decide the shape, so every head layout works.

    Rows are never cleared, because the mask hides stale ones. New buffers are zeros, because a NaN would spread through the mask.
    """

    is_sliding = False
    keys: Any
    values: Any
    is_initialized: bool

    def __init__(self, place: Place):
        super().__init__()
        self.place = place
        self.empty: tuple[Any, Any] | None = None  # keys and values [0, kv_heads, 0, head_dim], once a forward pass has shown them

    @property
    def token_bytes(self) -> int:
        """Bytes of a token; 0 for a layer that shares another layer's K/V, or has not run yet."""
        return sum(like.shape[1] * like.shape[3] * like.element_size() for like in self.empty or ())

    @property
    def shape(self) -> tuple[int, int] | None:
        """(places, rows) of the buffers; None without buffers."""
        return (self.keys.shape[0], self.keys.shape[2]) if self.is_initialized else None

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Allocate the first buffers; both arguments are [B, kv_heads, T, head_dim]."""
        self.empty = tuple(states.new_empty(0, states.shape[1], 0, states.shape[3]) for states in (key_states, value_states))
        self.resize(self.place.num_places, self.place.num_rows)

    def resize(self, num_places: int, num_rows: int) -> None:
        """Allocate buffers of this size with the same content; what does not fit is lost. If there is no memory, it raises and the old
        buffers stay."""
        if self.empty is None:
            return
        old = (self.keys, self.values) if self.is_initialized else self.empty
        keys, values = (_resized(rows, num_places, num_rows) for rows in old)
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store [B, kv_heads, T, head_dim] in the rows of this forward pass; returns [B, kv_heads, read_len, head_dim] to attend to."""
        place, device = self.place, key_states.device
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        places, rows = place.places.to(device), place.rows.to(device)  # layers may live on different devices
        self.keys[places, :, rows] = key_states.transpose(1, 2)
        self.values[places, :, rows] = value_states.transpose(1, 2)
        read = slice(place.first, place.first + len(key_states))
        return self.keys[read, :, : place.read_len], self.values[read, :, : place.read_len]

    def move(self, place: int, source: Any, target: int) -> None:
        """Copy the rows `source` [n] int64 of a place to the rows target, target + 1, …"""
        for buffer in self._buffers():
            buffer[place, :, target : target + len(source)] = buffer[place].index_select(1, source.to(buffer.device))

    def copy(self, source: int, target: int, num_rows: int) -> None:
        """Copy the first rows of one place to another."""
        for buffer in self._buffers():
            buffer[target, :, :num_rows] = buffer[source, :, :num_rows]

    def swap(self, one: int, other: int, num_rows: int) -> None:
        """Exchange the first rows of two places."""
        for buffer in self._buffers():
            kept = buffer[one, :, :num_rows].clone()
            buffer[one, :, :num_rows] = buffer[other, :, :num_rows]
            buffer[other, :, :num_rows] = kept

    def drop(self) -> None:
        """Release the buffers."""
        self.keys = self.values = None
        self.is_initialized = False

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.place.read_len, 0

    def get_seq_length(self, *args: Any) -> int:
        return 0  # differs by sequence; models ask only if they are given no position ids

    def get_max_length(self) -> int:
        return -1

    def _buffers(self) -> tuple[Any, ...]:
        """Keys and values; none for a layer that shares another layer's K/V."""
        return (self.keys, self.values) if self.is_initialized else ()


def _resized(old: Any, num_places: int, num_rows: int) -> Any:
    new = old.new_zeros(num_places, old.shape[1], num_rows, old.shape[3])
    places, rows = min(num_places, old.shape[0]), min(num_rows, old.shape[2])
    new[:places, :, :rows] = old[:places, :, :rows]
    return new
