"""The K/V cache of the OpenVINO target: the memory of all layers in blocks, and the blocks of each sequence."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov

from outpace.arrays import Array
from outpace.targets.base import KVUse
from outpace.targets.openvino.blocks import BlockPool
from outpace.tree.segment import Slot

BLOCK_SIZE = 32  # fixed by OpenVINO's CPU plugin
KV_BYTES = 2 << 30  # default limit of all K/V
STORED_BYTES = 256 << 20  # default limit of the K/V of finished requests
_STORAGE = {"bf16": np.uint16, "f32": np.float32}  # numpy has no bfloat16; K/V is only copied, never read


class KVCache:
    """One array [tensors, blocks, kv_heads, 32, head_dim] for each shape of K/V that the model has.

    Memory is taken as blocks are first written. Blocks of finished requests stay for prompts that begin alike, and are used again before
    memory is taken once there are `stored_tokens` of them.
    """

    def __init__(
        self,
        ports: dict[str, tuple[int, ...]],
        kv_type: str,
        padding: int,
        max_len: int,
        num_tokens: int | None,
        stored_tokens: int | None,
    ):
        """`ports`: the model's inputs for K/V, each with the shape of a block [kv_heads, 32, head_dim]. `num_tokens` None: 2 GiB, or two
        texts of the largest length `max_len`; `stored_tokens` None: 256 MiB. `padding`: tokens that every slot has room
        for beyond its capacity. Raises MemoryError, OverflowError, ValueError or OSError if so much cannot be reserved."""
        self.padding = padding
        itemsize = np.dtype(_STORAGE[kv_type]).itemsize
        self.block_bytes = sum(int(np.prod(shape)) * itemsize for shape in ports.values())
        num_tokens = num_tokens or max(2 * max_len, KV_BYTES // self.block_bytes * BLOCK_SIZE)
        num_stored = STORED_BYTES // self.block_bytes if stored_tokens is None else -(-stored_tokens // BLOCK_SIZE)
        num_blocks = -(-num_tokens // BLOCK_SIZE) + 4
        self.arrays: list[Array] = []
        self.tensors: dict[str, Any] = {}
        for shape in dict.fromkeys(ports.values()):
            names = [name for name, own in ports.items() if own == shape]
            self.arrays.append(untouched((len(names), num_blocks + 1, *shape), _STORAGE[kv_type]))
            for name, rows in zip(names, self.arrays[-1], strict=True):
                self.tensors[name] = ov.Tensor(rows, ov.Shape(rows.shape), getattr(ov.Type, kv_type))
        self.pool = BlockPool(num_blocks, BLOCK_SIZE, num_stored)
        self.scratch = Slot(-1, 0, [], [num_blocks])  # a block of no request, for forward passes whose outputs nobody reads
        self.slots: dict[int, list[int]] = {}  # slot -> identities of its full blocks

    @property
    def num_tokens(self) -> int:
        """Tokens that fit."""
        return self.pool.num_blocks * BLOCK_SIZE

    @property
    def use(self) -> KVUse:
        pool = self.pool
        num_bytes = self.block_bytes * (pool.num_blocks - pool.num_fresh)
        return KVUse(pool.num_used * BLOCK_SIZE, self.num_tokens, num_bytes, self.block_bytes * pool.num_blocks)

    def bind(self, request: Any) -> None:
        """Let an infer request of the model read and write this memory."""
        for name, tensor in self.tensors.items():
            request.set_tensor(name, tensor)

    def allocate(self, num_tokens: int, prompt_token_ids: Sequence[int], cache_salt: str) -> Slot:
        """A slot for `num_tokens` tokens, with the stored blocks of the prompt. Raises OutOfSlots."""
        shared, identities = self.pool.find(prompt_token_ids[:-1], cache_salt)
        blocks = self.pool.take(shared, self._num_blocks(num_tokens) - len(shared))
        index = next(i for i in range(len(self.slots) + 1) if i not in self.slots)
        self.slots[index] = list(identities)
        start = list(prompt_token_ids[: len(shared) * BLOCK_SIZE])
        return Slot(index, len(blocks) * BLOCK_SIZE - self.padding, start, blocks, cache_salt)

    def extend(self, slot: Slot, num_tokens: int) -> None:
        """Give a slot blocks for `num_tokens` tokens in all. Raises OutOfSlots, and then changes nothing."""
        slot.blocks += self.pool.take([], max(0, self._num_blocks(num_tokens) - len(slot.blocks)))
        slot.capacity = len(slot.blocks) * BLOCK_SIZE - self.padding

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-(num_tokens + self.padding) // BLOCK_SIZE)

    def accept(self, slot: Slot, token_ids: Sequence[int], nodes: Sequence[int]) -> None:
        """Keep these nodes of the last forward pass, and remember the blocks that are now full."""
        base = slot.num_cached
        moved = [(node, place) for place, node in enumerate(nodes) if node != place]
        if moved:
            table = np.array(slot.blocks)
            source, place = (base + np.array(column) for column in zip(*moved, strict=True))
            for rows in self.arrays:
                block, offset = table[source // BLOCK_SIZE], source % BLOCK_SIZE
                rows[:, table[place // BLOCK_SIZE], :, place % BLOCK_SIZE] = rows[:, block, :, offset]
        slot.token_ids.extend(token_ids)
        identities = self.slots[slot.index]
        while (len(identities) + 1) * BLOCK_SIZE <= slot.num_cached:
            start = len(identities) * BLOCK_SIZE
            before = identities[-1] if identities else slot.cache_salt
            tokens = slot.token_ids[start : start + BLOCK_SIZE]
            identities.append(self.pool.remember(slot.blocks[len(identities)], before, tokens))

    def free(self, slot: Slot) -> None:
        """Release the blocks of a slot."""
        del self.slots[slot.index]
        self.pool.release(slot.blocks)


def untouched(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that take memory page by page as they are written. With numpy's own arrays, which ask for huge pages, one block takes 2 MB of
    every layer."""
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
