"""Trained mask tokens (2507.11851; PaSS, 2311.13581): vectors that take the place of tokens that are not known yet.

Mask token i of m stands i + 1 positions after the last known token, attends to the text and to the mask tokens before it, and predicts
the token after it. By option, low-rank weights in every layer act on the mask tokens only (targets/low_rank.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.targets.low_rank import LowRank

MAX_BLANKS = 16


@dataclass(frozen=True)
class BlankVectors:
    """embeddings [m, H] float32, one per mask token; temperatures [m], divisors of the logits at mask token i that calibrate its
    probabilities; `low_rank`: weights that act on the mask tokens, or None."""

    embeddings: Array
    temperatures: tuple[float, ...]
    low_rank: LowRank | None = None

    @property
    def count(self) -> int:
        """Number of consecutive mask tokens."""
        return len(self.embeddings)


def blank_vectors(heads: DraftHeads) -> BlankVectors:
    """The vectors of heads of kind blanks. Raises BadInputError for tensors or settings that are missing, surplus or wrong."""
    if heads.kind != "blanks":
        raise BadInputError(f"these heads are of kind {heads.kind!r}, not blanks")
    count = heads.settings.get("count")
    if not isinstance(count, int) or not 1 <= count <= MAX_BLANKS:
        raise BadInputError(f"count must be an integer from 1 to {MAX_BLANKS}, not {count!r}")
    if set(heads.tensors) not in ({"embeddings"}, {"embeddings", "down", "up"}):
        found = ", ".join(sorted(heads.tensors))[:200] or "none"
        raise BadInputError(f"blanks need the tensor embeddings, or embeddings, down and up with low-rank weights; found: {found}")
    embeddings = heads.tensors["embeddings"]
    if embeddings.shape != (count, heads.base.hidden_size) or embeddings.dtype.kind != "f":
        raise BadInputError(f"embeddings must be {[count, heads.base.hidden_size]}, not {list(embeddings.shape)} of {embeddings.dtype}")
    given = heads.settings.get("temperatures", [1.0] * count)
    is_list = isinstance(given, list) and len(given) == count
    if not is_list or not all(isinstance(value, (int, float)) and 0.01 <= value <= 100 for value in given):
        raise BadInputError(f"temperatures must be {count} numbers from 0.01 to 100, not {given!r:.80}")
    low_rank = LowRank.of(heads.tensors["down"], heads.tensors["up"], heads.base.hidden_size) if "down" in heads.tensors else None
    return BlankVectors(embeddings.astype(np.float32), tuple(map(float, given)), low_rank)
