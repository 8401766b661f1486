"""Dummy tokens that no real token attends to: they bring a forward pass to a size that OpenVINO has prepared already."""

from __future__ import annotations

from dataclasses import replace

from outpace.targets.openvino.kv_cache import BLOCK_SIZE
from outpace.targets.openvino.sizes import MIN_TOKENS
from outpace.tree.segment import Segment, TreeBatch

FINE_BITS = 5  # of a rounded size: 16 sizes between a power of two and the next


def rounded(size: int) -> int:
    """The size that a large forward pass is brought to. What is prepared for a size is kept (0.9 MB with 135M parameters), so there are
    few; this adds 1.6% of dummy tokens on average, without logits."""
    step = 1 << max(0, size.bit_length() - FINE_BITS)
    return -(-size // step) * step


def room(segment: Segment) -> int:
    """Tokens that the segment can have in the blocks of its slot."""
    return len(segment.slot.blocks) * BLOCK_SIZE - segment.slot.num_cached


def with_dummies(segment: Segment, length: int) -> Segment:
    """The segment with dummy tokens up to this length."""
    num_more = length - len(segment)
    parents = list(range(-1, len(segment) - 1)) if segment.parents is None else list(segment.parents)
    token_ids = [*segment.token_ids, *[segment.token_ids[0]] * num_more]
    return replace(segment, token_ids=token_ids, parents=[*parents, *[-1] * num_more])


def widened(batch: TreeBatch, num_more: int) -> TreeBatch:
    """The batch with so many dummy tokens more, in the shortest segment that has room for them; unchanged if none has."""
    lengths = [max(len(segment), MIN_TOKENS) + num_more for segment in batch]
    places = [place for place, segment in enumerate(batch) if lengths[place] <= room(segment)]
    if num_more <= 0 or not places:
        return batch
    chosen = min(places, key=lengths.__getitem__)
    return [with_dummies(segment, lengths[place]) if place == chosen else segment for place, segment in enumerate(batch)]
