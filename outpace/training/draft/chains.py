"""Simulated decoding with chains of a draft model's likeliest tokens. As long as all draft tokens of a chain are right they equal the text,
so one forward pass over the text determines the accepted length of every chain."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from outpace.arrays import Array
from outpace.training.acceptance import Acceptance


@dataclass(frozen=True)
class Chains:
    """Rows of answers, one per token: hits [n] bool, whether the draft model's likeliest token is the right one, and its confidences [n].
    Answer i has the rows starts[i] to starts[i + 1] - 1."""

    starts: Array
    hits: Array
    confidences: Array

    def acceptance(self, depth: int, min_confidence: float = 0.0) -> Acceptance:
        """Simulate decoding with chains of `depth` tokens that stop after a token whose path is less likely than `min_confidence`.

        The engine drafts a little less in the last steps of an answer that `max_tokens` cuts off; the simulation ignores this.
        """
        hits, confidences = self.hits.tolist(), self.confidences.tolist()
        num_steps = 0
        for begin, end in itertools.pairwise(self.starts.tolist()):
            row = begin
            while row < end:
                num_steps += 1
                stop, path = min(row + depth, end), 1.0
                while row < stop and hits[row] and path >= min_confidence:
                    path *= confidences[row]
                    row += 1
                row += 1
        return Acceptance(len(hits), num_steps)
