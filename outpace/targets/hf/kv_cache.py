"""The K/V cache of the hf target: buffers of a bounded size, in which every slot has a place.

A forward pass reads adjacent places without copying them. Slots that run together are therefore moved together when they are not
adjacent, which costs one copy and not one for every forward pass.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

from outpace.errors import BadInputError
from outpace.targets.base import KVUse, OutOfSlots
from outpace.targets.hf.slot_layer import Place, SlotLayer
from outpace.tree.segment import Slot

logger = logging.getLogger("outpace")
ROW_BLOCK = 256  # buffers grow by whole blocks of rows
STATIC_ROWS, STATIC_PLACES = 2048, 16  # blocks and first places of static buffers, which should rarely grow
FREE_SHARE = 0.5  # of the device's free memory: the default limit
CPU_BYTES = 2 << 30  # limit of that share on the CPU
MIN_SHARED = 16  # tokens of an equal beginning that are worth copying
UNLIMITED = 1 << 40


class KVCache:
    """Buffers [places, kv_heads, rows, head_dim] in every layer, with places * rows up to `max_tokens`, and rows a multiple of `align`.

    `is_static`: they begin large. `generation` counts how often they were replaced.

    Raises BadInputError if `max_tokens` is less than `align`.
    """

    def __init__(self, num_layers: int, max_slots: int, max_tokens: int | None, align: int = 1, is_static: bool = False):
        if max_tokens and max_tokens < align:
            raise BadInputError(f"kv_cache_tokens must be at least {align} here, not {max_tokens}")
        self.align, self.is_static, self.generation = align, is_static, 0
        self.place = Place()
        self.layers = [SlotLayer(self.place) for _ in range(num_layers)]
        self.max_slots, self.max_tokens = max_slots, max_tokens or UNLIMITED
        self.slots: dict[int, Slot] = {}  # slots in use, by their index
        self.places: dict[int, int] = {}  # slot -> its place

    def limit_to_free_memory(self, device: Any) -> None:
        """Set the default limit, once a forward pass has shown how large a token is."""
        if self.max_tokens == UNLIMITED and self.token_bytes:
            self.max_tokens = max(2 * ROW_BLOCK, int(FREE_SHARE * _free_bytes(device)) // self.token_bytes)

    @property
    def token_bytes(self) -> int:
        """Bytes of a token in all layers."""
        return sum(layer.token_bytes for layer in self.layers)

    @property
    def max_slot(self) -> int:
        """Tokens that the largest slot can hold; the last row takes what only pads a forward pass."""
        return self.max_tokens // self.align * self.align - 1

    @property
    def use(self) -> KVUse:
        rows = max((slot.capacity + 1 for slot in self.slots.values()), default=0)
        size = self.token_bytes * self.place.num_places * self.place.num_rows
        limit = 0 if self.max_tokens == UNLIMITED else self.max_tokens
        return KVUse(len(self.slots) * rows, limit, size, limit * self.token_bytes)

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int], cache_salt: str) -> Slot:
        """A slot for `num_tokens` tokens, with the beginning of the prompt that a running slot of the same salt has too. Raises OutOfSlots.

        Finished texts are not kept: the weights of a live model may change between two calls.
        """
        if len(self.slots) >= self.max_slots:
            raise OutOfSlots
        self._fit(len(self.slots) + 1, max([num_tokens, *(slot.capacity for slot in self.slots.values())]) + 1)
        index = next(i for i in range(self.max_slots) if i not in self.slots)
        slot = self.slots[index] = Slot(index, num_tokens, [], [], cache_salt)
        taken = set(self.places.values())
        self.places[index] = next(place for place in range(self.place.num_places) if place not in taken)
        self._share(slot, prompt_token_ids[:-1])
        return slot

    def extend(self, slot: Slot, num_tokens: int) -> None:
        """Give a slot room for `num_tokens` tokens in all. Raises OutOfSlots, and then changes nothing."""
        self._fit(len(self.slots), max([num_tokens, *(other.capacity for other in self.slots.values())]) + 1)
        self.slots[slot.index].capacity = slot.capacity = num_tokens

    def free(self, slot: Slot) -> None:
        """Release a slot."""
        del self.slots[slot.index], self.places[slot.index]

    def drop(self) -> None:
        """Release the buffers, unless a slot is in use."""
        if not self.slots:
            self.place.num_places = self.place.num_rows = 0
            self.generation += 1
            for layer in self.layers:
                layer.drop()

    def bring_together(self, indices: Sequence[int], to_front: bool = False) -> list[int]:
        """Move these slots to adjacent places, if they are not there already, or to the first ones. Returns them in the order of their
        places."""
        wanted, count = {self.places[index] for index in indices}, len(indices)
        starts = range(1 if to_front else self.place.num_places - count + 1)
        first = max(starts, key=lambda start: len(wanted.intersection(range(start, start + count))))
        away = sorted(wanted.difference(range(first, first + count)))
        gaps = [place for place in range(first, first + count) if place not in wanted]
        for source, target in zip(away, gaps, strict=True):
            self._exchange(source, target)
        return sorted(indices, key=self.places.__getitem__)

    def _exchange(self, one: int, other: int) -> None:
        """Exchange the content of two places."""
        owners = {place: index for index, place in self.places.items()}
        held = [self.slots[owners[place]].capacity for place in (one, other) if place in owners]
        for layer in self.layers:
            layer.swap(one, other, max(held))
        for index, place in ((owners.get(one), other), (owners.get(other), one)):
            if index is not None:
                self.places[index] = place

    def _share(self, slot: Slot, prompt: Sequence[int]) -> None:
        """Copy the K/V of the longest beginning of the prompt that another slot has."""
        others = [other for other in self.slots.values() if other is not slot and other.cache_salt == slot.cache_salt]
        best = max(others, key=lambda other: _num_alike(other.token_ids, prompt), default=None)
        count = 0 if best is None else _num_alike(best.token_ids, prompt)
        if best is None or count < MIN_SHARED:
            return
        for layer in self.layers:
            layer.copy(self.places[best.index], self.places[slot.index], count)
        slot.token_ids.extend(prompt[:count])

    def _fit(self, num_places: int, num_rows: int) -> None:
        """Grow or reshape the buffers. Raises OutOfSlots where the limit or the memory does not allow it, and then changes nothing."""
        place = self.place
        if num_places <= place.num_places and num_rows <= place.num_rows:
            return
        block = max(STATIC_ROWS if self.is_static and self.max_tokens < UNLIMITED else ROW_BLOCK, self.align)
        blocks, most = -(-num_rows // block) * block, self.max_tokens // num_places // self.align * self.align
        if num_rows > most:
            raise OutOfSlots
        least = min(STATIC_PLACES, self.max_tokens // max(blocks, place.num_rows)) if block == STATIC_ROWS else 0
        more = place.num_places if num_places <= place.num_places else min(self.max_slots, max(num_places, 2 * place.num_places, least))
        for size in ((more, max(blocks, place.num_rows)), (num_places, blocks), (num_places, most)):
            if size[0] * size[1] <= self.max_tokens:
                break
        if size[0] < place.num_places:
            self._pack()
        self.generation += 1
        try:
            for layer in self.layers:
                if layer.shape != size:
                    layer.resize(*size)
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error) and not isinstance(error, MemoryError):
                raise
            shapes = [shape for layer in self.layers if (shape := layer.shape)]
            place.num_places, place.num_rows = (min((shape[axis] for shape in shapes), default=0) for axis in (0, 1))
            logger.warning("no memory for a K/V cache of %d tokens: requests wait until others end", size[0] * size[1])
            raise OutOfSlots from error
        place.num_places, place.num_rows = size

    def _pack(self) -> None:
        """Move all slots to the first places."""
        gaps = (place for place in range(len(self.slots)) if place not in set(self.places.values()))
        for source in sorted(place for place in self.places.values() if place >= len(self.slots)):
            self._exchange(source, next(gaps))


def _num_alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of equal tokens at the beginning."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)


def _free_bytes(device: Any) -> int:
    """Free memory of a device; of the machine's, at most twice CPU_BYTES."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        free = 2 * CPU_BYTES
    return int(min(free, 2 * CPU_BYTES))
