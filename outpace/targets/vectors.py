"""Mask tokens: tokens of a forward pass whose input is a trained vector instead of an embedding.

The vectors are stored in a small table that extends the vocabulary: id V + i stands for the vector at index i.
"""

from __future__ import annotations

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.targets.low_rank import LowRank

NUM_VECTORS = 32  # size of the table


class VectorTable:
    """`rows` [NUM_VECTORS, H] float32 are the vectors, zeros where unused; the array is never replaced, so a model may read it in place.
    `gates` [NUM_VECTORS] int32: 1 for the vectors that the `low_rank` weights act on."""

    def __init__(self, vocab_size: int, hidden_size: int):
        self.vocab_size = vocab_size
        self.rows = np.zeros((NUM_VECTORS, hidden_size), np.float32)
        self.gates = np.zeros(NUM_VECTORS, np.int32)
        self.low_rank: LowRank | None = None
        self.known: dict[bytes, int] = {}  # content that was added -> id of its first vector
        self.num_used = 0

    def add(self, vectors: Array, low_rank: LowRank | None = None) -> int:
        """Add vectors [n, H] and return the id of the first one; the others follow it. Vectors added again keep their ids.

        The `low_rank` weights act on these vectors. Raises BadInputError for a wrong shape, if the table is full, and for a second set of
        low-rank weights.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != self.rows.shape[1]:
            raise BadInputError(f"vectors for this model must be [n, {self.rows.shape[1]}], not {list(vectors.shape)}")
        content = vectors.tobytes() + (low_rank.content if low_rank else b"")
        if content not in self.known:
            stop = self.num_used + len(vectors)
            if stop > NUM_VECTORS:
                raise BadInputError(f"the target has room for {NUM_VECTORS} vectors of trained heads; {self.num_used} are taken")
            if low_rank and self.low_rank:
                raise BadInputError("the target already has low-rank weights of other heads; there is room for one set")
            self.low_rank = low_rank or self.low_rank
            self.rows[self.num_used : stop] = vectors
            self.gates[self.num_used : stop] = low_rank is not None
            self.known[content] = self.vocab_size + self.num_used
            self.num_used = stop
        return self.known[content]
