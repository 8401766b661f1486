"""A few tokens in two chunks, the second a tree, against a plain forward pass: a model may take a mask and positions and ignore them."""

from __future__ import annotations

import numpy as np

from outpace.arrays import Array
from outpace.targets.base import TargetModel
from outpace.tree.segment import Segment, Slot

BLOCK = 512  # rows that attention adds up together
NUM_CACHED, NUM_TOKENS, NUM_ASIDE = 3, 6, 2  # tokens of the first chunk, of the text, and of a side branch of the tree


def check_tokens(vocab_size: int) -> list[int]:
    """The tokens of the text, whose logits [NUM_TOKENS, V] `tree_error` wants from a plain forward pass."""
    return _tokens(vocab_size)[:NUM_TOKENS]


def plain_logits(target: TargetModel) -> Array:
    """The logits [NUM_TOKENS, V] of the text in one forward pass of the target."""
    tokens = check_tokens(target.capabilities.vocab_size)
    slot = target.allocate(len(tokens))
    logits = target.forward([Segment(slot, tokens)]).logits.copy()
    target.free(slot)
    return logits


def chunks_have_the_bits(target: TargetModel, expected: Array) -> bool:
    """Whether the logits of the text in two chunks are the `expected` ones, bit for bit."""
    tokens = check_tokens(target.capabilities.vocab_size)
    slot = _slot_with_first_chunk(target, tokens)
    got = target.forward([Segment(slot, tokens[NUM_CACHED:])]).logits
    is_equal = np.array_equal(got, expected[NUM_CACHED:])
    target.free(slot)
    return is_equal


def tree_error(target: TargetModel, expected: Array) -> float:
    """How far the target's logits are from the `expected` ones of a plain pass, as a share of their spread; about 1 if they are wrong."""
    tokens = _tokens(target.capabilities.vocab_size)
    slot = _slot_with_first_chunk(target, tokens)
    root, *main = tokens[NUM_CACHED:NUM_TOKENS]
    tree = Segment(slot, [root, *tokens[NUM_TOKENS:], *main], [-1, 0, 1, 0, 3])  # the side branch stands before the main one
    got = target.forward([tree]).logits[[0, 3, 4]]
    target.free(slot)
    return error_of(got, expected[NUM_CACHED:NUM_TOKENS])


def error_of(logits: Array, expected: Array) -> float:
    """How far logits are from the expected ones, as a share of the spread of these."""
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected - expected.mean()))


def _slot_with_first_chunk(target: TargetModel, tokens: list[int]) -> Slot:
    slot = target.allocate(NUM_TOKENS + NUM_ASIDE)
    target.forward([Segment(slot, tokens[:NUM_CACHED], wants_output=False)])
    target.accept(slot, tokens[:NUM_CACHED], range(NUM_CACHED))
    return slot


def is_exact(target: TargetModel, width: int) -> bool:
    """Has every token of a chain the same bits, whether the chain runs in one forward pass of `width` tokens or in several?

    The chain stands behind a text that was never run and crosses a block of 512 rows, if the model takes such long texts.
    """
    base = max(0, min(BLOCK, target.capabilities.max_len) - width)
    tokens = [(7 * i + 1) % target.capabilities.vocab_size for i in range(width)]
    slot = target.allocate(base + width)
    slot.token_ids.extend([0] * base)
    whole, start = target.forward([Segment(slot, tokens)]).logits.copy(), 0
    same = True
    for end in sorted({min(end, width) for end in (1, 3, 6, width)}):
        logits = target.forward([Segment(slot, tokens[start:end])]).logits
        same = same and np.array_equal(logits, whole[start:end])
        target.accept(slot, tokens[start:end], range(end - start))
        start = end
    target.free(slot)
    return same


def _tokens(vocab_size: int) -> list[int]:
    return [(7 * i + 1) % vocab_size for i in range(NUM_TOKENS + NUM_ASIDE)]
