"""Rows whose input is a vector of a trained helper instead of a token's embedding.

The vectors stand in a small table. The ids behind the vocabulary name its places: id V + i is the vector at place i.
"""

from __future__ import annotations

import numpy as np

from outpace.core import Array
from outpace.errors import BadInputError

NUM_VECTORS = 32  # places of the table


class VectorTable:
    """`rows` [NUM_VECTORS, H] float32, zeros where nothing stands yet; never made anew, so a model may read it in place."""

    def __init__(self, vocab_size: int, hidden_size: int):
        self.vocab_size = vocab_size
        self.rows = np.zeros((NUM_VECTORS, hidden_size), np.float32)
        self.known: dict[bytes, int] = {}  # what was added -> its first id
        self.num_used = 0

    def add(self, vectors: Array) -> int:
        """The id of the first of these vectors [n, H]; the others follow it. The same vectors, added again, keep their ids.

        Raises BadInputError for a wrong shape and when the table has no room left.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != self.rows.shape[1]:
            raise BadInputError(f"vectors for this model must be [n, {self.rows.shape[1]}], not {list(vectors.shape)}")
        content = vectors.tobytes()
        if content not in self.known:
            stop = self.num_used + len(vectors)
            if stop > NUM_VECTORS:
                raise BadInputError(f"the target has room for {NUM_VECTORS} vectors of helpers; {self.num_used} are taken")
            self.rows[self.num_used : stop] = vectors
            self.known[content] = self.vocab_size + self.num_used
            self.num_used = stop
        return self.known[content]
