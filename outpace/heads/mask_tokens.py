"""Trained blanks (2507.11851; 2311.13581): vectors that stand at positions whose token is not known yet.

Blank i of m stands i + 1 places after the last known token, sees the text and the blanks before it, and predicts the token behind it.
By option low-rank weights in every layer act on the blanks, and on nothing else (low_rank.py).
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
    """embeddings [m, H] float32, one for each blank in a row; temperatures [m], what the logits at blank i are divided by, so that its
    probabilities are true to life. `low_rank`: weights that act on the blanks, or None."""

    embeddings: Array
    temperatures: tuple[float, ...]
    low_rank: LowRank | None = None

    @property
    def count(self) -> int:
        """Blanks in a row."""
        return len(self.embeddings)


def blank_vectors(helper: DraftHeads) -> BlankVectors:
    """The vectors of a helper of kind blanks. Raises BadInputError for tensors or settings that are missing, surplus or wrong."""
    if helper.kind != "blanks":
        raise BadInputError(f"this helper is of kind {helper.kind!r}, not blanks")
    count = helper.settings.get("count")
    if not isinstance(count, int) or not 1 <= count <= MAX_BLANKS:
        raise BadInputError(f"count must be an integer from 1 to {MAX_BLANKS}, not {count!r}")
    if set(helper.tensors) not in ({"embeddings"}, {"embeddings", "down", "up"}):
        found = ", ".join(sorted(helper.tensors))[:200] or "none"
        raise BadInputError(f"the tensors of blanks are embeddings, and down and up if they have low-rank weights; here are {found}")
    embeddings = helper.tensors["embeddings"]
    if embeddings.shape != (count, helper.base.hidden_size) or embeddings.dtype.kind != "f":
        raise BadInputError(f"embeddings must be {[count, helper.base.hidden_size]}, not {list(embeddings.shape)} of {embeddings.dtype}")
    given = helper.settings.get("temperatures", [1.0] * count)
    is_list = isinstance(given, list) and len(given) == count
    if not is_list or not all(isinstance(value, (int, float)) and 0.01 <= value <= 100 for value in given):
        raise BadInputError(f"temperatures must be {count} numbers from 0.01 to 100, not {given!r:.80}")
    low_rank = LowRank.of(helper.tensors["down"], helper.tensors["up"], helper.base.hidden_size) if "down" in helper.tensors else None
    return BlankVectors(embeddings.astype(np.float32), tuple(map(float, given)), low_rank)
