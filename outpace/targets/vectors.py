"""Rows whose input is a vector of a trained helper instead of a token's embedding.

The vectors stand in a small table. The ids behind the vocabulary name its places: id V + i is the vector at place i.
"""

from __future__ import annotations

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.low_rank import LowRank

NUM_VECTORS = 32  # places of the table


class VectorTable:
    """`rows` [NUM_VECTORS, H] float32, zeros where nothing stands yet; never made anew, so a model may read it in place. `gates`
    [NUM_VECTORS] int32: 1 for the vectors that `low_rank` weights act on."""

    def __init__(self, vocab_size: int, hidden_size: int):
        self.vocab_size = vocab_size
        self.rows = np.zeros((NUM_VECTORS, hidden_size), np.float32)
        self.gates = np.zeros(NUM_VECTORS, np.int32)
        self.low_rank: LowRank | None = None
        self.known: dict[bytes, int] = {}  # what was added -> its first id
        self.num_used = 0

    def add(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        """The id of the first of these vectors [n, H]; the others follow it. The same vectors, added again, keep their ids.

        `low_rank` weights act on their rows. Raises BadInputError for a wrong shape, when the table has no room left, and for a second
        helper with low-rank weights.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != self.rows.shape[1]:
            raise BadInputError(f"vectors for this model must be [n, {self.rows.shape[1]}], not {list(vectors.shape)}")
        content = vectors.tobytes() + (low_rank.content if low_rank else b"")
        if content not in self.known:
            stop = self.num_used + len(vectors)
            if stop > NUM_VECTORS:
                raise BadInputError(f"the target has room for {NUM_VECTORS} vectors of helpers; {self.num_used} are taken")
            if low_rank and self.low_rank:
                raise BadInputError("the target has the low-rank weights of another helper already; there is room for one")
            self.low_rank = low_rank or self.low_rank
            self.rows[self.num_used : stop] = vectors
            self.gates[self.num_used : stop] = low_rank is not None
            self.known[content] = self.vocab_size + self.num_used
            self.num_used = stop
        return self.known[content]
