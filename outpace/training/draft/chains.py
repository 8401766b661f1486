"""Chains of a draft model's likeliest tokens, on paper: while all guesses so far are right, they are the text itself, so one pass over the
text tells what every chain would have gained."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from outpace.arrays import Array
from outpace.training.acceptance import Acceptance


@dataclass(frozen=True)
class Chains:
    """Rows of answers, one for each token: hits [n] bool, is the draft model's likeliest token the right one, and chances [n], what it
    says of its own. Answer i has the rows starts[i] to starts[i + 1] - 1."""

    starts: Array
    hits: Array
    confidences: Array

    def acceptance(self, depth: int, min_confidence: float = 0.0) -> Acceptance:
        """Decode the answers with chains of `depth` tokens that stop behind a token whose path is less likely than `min_confidence`.

        The engine drafts a little less in the last steps of an answer that `max_tokens` cuts off; this is not counted here.
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
