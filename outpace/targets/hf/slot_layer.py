"""K/V of many sequences in the cache interface of transformers: one layer, and the place of the running forward pass in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import CacheLayerMixin


@dataclass
class Place:
    """Which rows of the buffers the running forward pass writes and reads; one object, shared by all layers."""

    num_slots: int = 0
    num_rows: int = 0
    slots: Any = None  # [B, 1] slot of each sequence
    rows: Any = None  # [B, T] row of each token
    read: Any = None  # the slots to read: a slice if they are adjacent (no copy), else [B] indices
    read_len: int = 0


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """K/V of one layer, [slots, kv_heads, rows, head_dim]. The first tensors stored decide the shape, so every head layout works.

    Rows are never cleared, because the mask hides stale ones. New buffers are zeros, because a NaN would spread through the mask.
    """

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, place: Place):
        super().__init__()
        self.place = place

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Allocate the buffers, or larger ones with the same content; both arguments are [B, kv_heads, T, head_dim]."""
        self.keys, self.values = self._grown(self.keys, key_states), self._grown(self.values, value_states)
        self.is_initialized = True

    def _grown(self, old: Any, like: Any) -> Any:
        new = like.new_zeros(self.place.num_slots, like.shape[1], self.place.num_rows, like.shape[3])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store [B, kv_heads, T, head_dim] in the rows of this forward pass; returns [B, kv_heads, read_len, head_dim] to attend to."""
        place, device = self.place, key_states.device
        if not self.is_initialized or self.keys.shape[0] < place.num_slots or self.keys.shape[2] < place.num_rows:
            self.lazy_initialization(key_states, value_states)
        slots, rows = place.slots.to(device), place.rows.to(device)  # layers may live on different devices
        self.keys[slots, :, rows] = key_states.transpose(1, 2)
        self.values[slots, :, rows] = value_states.transpose(1, 2)
        read = place.read if isinstance(place.read, slice) else place.read.to(device)
        return self.keys[read, :, : place.read_len], self.values[read, :, : place.read_len]

    def move(self, slot: int, source: list[int], target: int) -> None:
        """Copy the rows `source` of a slot to the rows target, target + 1, …"""
        if self.is_initialized:  # never so for a layer that shares another layer's K/V
            for buffer in (self.keys, self.values):
                buffer[slot, :, target : target + len(source)] = buffer[slot][:, source]

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
