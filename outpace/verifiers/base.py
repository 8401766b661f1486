"""The face of a verifier: which guesses stay, and which token comes next?"""

from __future__ import annotations

from abc import ABC, abstractmethod

from outpace.arrays import Array
from outpace.request import Request
from outpace.tree.draft import Draft, Verdict


class Verifier(ABC):
    """Judges a draft by the target's logits. Row 0 belongs to the last committed token, row i + 1 to draft node i."""

    lossless: bool  # does the text keep the target's distribution?
    same_text: bool  # does the same seed give the same text as plain decoding?

    @abstractmethod
    def verify(self, request: Request, draft: Draft, logits: Array) -> Verdict:
        """logits [1 + len(draft), V] float32, raw."""
