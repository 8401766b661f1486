"""A successor table on disk: the tokens that usually follow a token, or a pair of tokens, in a model's own answers.

An entry is the mean of the model's next-token probabilities over all visits. On disk a confidence is one byte, in steps of 1/255, and
tokens have the smallest integer type that fits the vocabulary: up to 65,536 tokens, an entry of 8 successors takes 26 or 28 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.targets.identity import Base

Key = TypeVar("Key", int, Array)
STEPS = 255  # of a stored confidence
MAX_WIDTH, MAX_PAIRS = 64, 1 << 22


@dataclass(frozen=True)
class Successors:
    """keys [E] int64, ascending: a token, or `pair_key` of two; tokens [E, width] int64 and confidences [E, width] float32, best first."""

    keys: Array
    tokens: Array
    confidences: Array

    def to_draft_heads(self, base: Base, training: dict[str, Any], vocabulary: str = "") -> DraftHeads:
        """The table as heads of kind recycling. `vocabulary` is the mark of the model's tokenizer: other models with the same tokens may
        use the table too."""
        token_type = np.uint16 if base.vocab_size <= 1 << 16 else np.int32
        num_single = int(np.searchsorted(self.keys, base.vocab_size))
        pairs = np.stack([self.keys[num_single:] // base.vocab_size - 1, self.keys[num_single:] % base.vocab_size], axis=1)
        tensors = {
            "singles": self.keys[:num_single].astype(token_type),
            "pairs": pairs.astype(token_type),
            "tokens": self.tokens.astype(token_type),
            "chances": np.rint(self.confidences * STEPS).astype(np.uint8),
        }
        settings = {"width": self.tokens.shape[1], "num_singles": num_single, "num_pairs": len(pairs), "vocabulary": vocabulary}
        return DraftHeads("recycling", base, settings, tensors, training=training)

    @classmethod
    def of(cls, heads: DraftHeads) -> Successors:
        """The table in heads of kind recycling. Raises BadInputError for another kind and for tensors that form no table."""
        if heads.kind != "recycling":
            raise BadInputError(f"these heads are of kind {heads.kind!r}, not recycling")
        vocab_size = heads.base.vocab_size
        width = _setting(heads, "width", 1, min(MAX_WIDTH, vocab_size))
        num_singles = _setting(heads, "num_singles", 0, vocab_size)
        num_pairs = _setting(heads, "num_pairs", 0, MAX_PAIRS)
        size = num_singles + num_pairs
        singles, pairs = _tokens(heads, "singles", num_singles), _tokens(heads, "pairs", num_pairs, 2)
        keys = np.concatenate([singles, pair_key(pairs[:, 0], pairs[:, 1], vocab_size)])
        if (np.diff(keys) <= 0).any():
            raise BadInputError("singles and pairs must each be in ascending order, none twice")
        confidences = heads.tensors.get("chances")
        if confidences is None or confidences.dtype != np.uint8 or confidences.shape != (size, width):
            raise BadInputError(f"chances must be uint8 [{size}, {width}]")
        if (confidences[:, 1:] > confidences[:, :-1]).any():
            raise BadInputError("the chances of an entry must be in descending order")
        return cls(keys, _tokens(heads, "tokens", size, width), confidences.astype(np.float32) / STEPS)


def pair_key(before: Key, token: Key, vocab_size: int) -> Key:
    """The key of a pair of tokens: unique, ordered like the pairs, and larger than any single token."""
    return (before + 1) * vocab_size + token


def find(keys: Array, wanted: Array) -> tuple[Array, Array]:
    """(indices [n] in `keys`, found [n] bool) of each wanted key; `keys` [E] are ascending. An index is valid only if the key was found."""
    places = np.searchsorted(keys, wanted)
    is_there = places < len(keys)
    places[~is_there] = 0
    is_there[is_there] = keys[places[is_there]] == wanted[is_there]
    return places, is_there


def _setting(heads: DraftHeads, name: str, least: int, most: int) -> int:
    value = heads.settings.get(name)
    if not isinstance(value, int) or not least <= value <= most:
        raise BadInputError(f"{name} must be an integer from {least} to {most}, not {value!r}")
    return value


def _tokens(heads: DraftHeads, name: str, *shape: int) -> Array:
    """Read a tensor of token ids as int64. Raises BadInputError if it is missing, of another shape or outside the vocabulary."""
    found = heads.tensors.get(name)
    if found is None or found.dtype.kind not in "iu" or found.shape != shape:
        raise BadInputError(f"{name} must be integers {list(shape)}, not {'missing' if found is None else list(found.shape)}")
    if found.size and not 0 <= found.min() <= found.max() < heads.base.vocab_size:
        raise BadInputError(f"{name} has tokens outside the vocabulary of {heads.base.vocab_size}")
    return found.astype(np.int64)
