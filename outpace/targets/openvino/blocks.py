"""Blocks of the K/V cache: a free list with reference counts, in which full blocks can be found by their content.

Requests that start with the same tokens share the blocks of that prefix. A block is identified by its tokens and the block before it,
so two blocks are equal only if the sequences up to their ends are equal. What is before the first block is the cache salt: sequences of
different salts share nothing, so that no tenant can find out whether another sent a prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from outpace.targets.base import OutOfSlots

Identity = int | str  # of a block; of what is before the first block, the cache salt
ROOT = ""  # the cache salt of those who give none


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens. A released block keeps its content until it is reused, least recently used first.

    Blocks that were never used have no memory yet. They are taken only while fewer than `max_stored` used ones are free.
    """

    def __init__(self, num_blocks: int, block_size: int, max_stored: int | None = None):
        self.num_blocks, self.block_size = num_blocks, block_size
        self.max_stored = num_blocks if max_stored is None else max_stored
        self.num_fresh = num_blocks  # the last blocks, which were never used
        self.free: OrderedDict[int, None] = OrderedDict()  # used blocks that are free: those without content, then by last use
        self.references = [0] * num_blocks
        self.by_content: dict[tuple[Identity, tuple[int, ...]], tuple[int, int]] = {}  # (identity before, tokens) -> (identity, block)
        self.content_of: dict[int, tuple[Identity, tuple[int, ...]]] = {}
        self.num_identities = 0

    def find(self, token_ids: Sequence[int], cache_salt: str = ROOT) -> tuple[list[int], list[int]]:
        """(blocks, identities) of the longest prefix of `token_ids` that is stored for this salt, in whole blocks. Reserves nothing."""
        blocks: list[int] = []
        identities: list[int] = []
        identity: Identity = cache_salt
        for start in range(0, len(token_ids) - self.block_size + 1, self.block_size):
            found = self.by_content.get((identity, tuple(token_ids[start : start + self.block_size])))
            if found is None:
                break
            identity, block = found
            blocks.append(block)
            identities.append(identity)
        return blocks, identities

    def take(self, shared: Sequence[int], num_new: int) -> list[int]:
        """Reserve the shared blocks and `num_new` free ones. Raises OutOfSlots and then reserves nothing."""
        if len(self.free) + self.num_fresh - sum(block in self.free for block in shared) < num_new:
            raise OutOfSlots
        for block in shared:
            self.references[block] += 1
            self.free.pop(block, None)
        new = [self._take_one() for _ in range(num_new)]
        for block in new:
            self.references[block] = 1
            content = self.content_of.pop(block, None)
            if content is not None:
                del self.by_content[content]
        return [*shared, *new]

    def _take_one(self) -> int:
        """A free block: one without content, else a fresh one while few are stored, else the least recently used."""
        first = next(iter(self.free), None)
        has_content = first is None or first in self.content_of
        if self.num_fresh and has_content and len(self.free) < max(1, self.max_stored):
            self.num_fresh -= 1
            return self.num_blocks - self.num_fresh - 1
        return self.free.popitem(last=False)[0]

    @property
    def num_used(self) -> int:
        """Blocks that sequences hold."""
        return self.num_blocks - self.num_fresh - len(self.free)

    def remember(self, block: int, identity_before: Identity, token_ids: Sequence[int]) -> int:
        """Make a full block available to find(). Returns its identity, which is that of an equal block if there is one."""
        content = (identity_before, tuple(token_ids))
        if content in self.by_content:
            return self.by_content[content][0]
        self.num_identities += 1
        self.by_content[content] = (self.num_identities, block)
        self.content_of[block] = content
        return self.num_identities

    def release(self, blocks: Sequence[int]) -> None:
        """Release blocks; the last blocks of a sequence are reused first."""
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.free[block] = None
                if block not in self.content_of:
                    self.free.move_to_end(block, last=False)
