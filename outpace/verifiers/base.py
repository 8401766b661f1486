"""The interface of a verifier: it decides which draft tokens are accepted and which token comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod

from outpace.arrays import Array
from outpace.request import Request
from outpace.tree.draft import Draft, Verdict


class Verifier(ABC):
    """Checks a draft against the target's logits. Row 0 of the logits belongs to the last committed token, row i + 1 to draft node i."""

    lossless: bool  # the text keeps the target's distribution
    same_text: bool  # a seed gives the same text as plain decoding

    @abstractmethod
    def verify(self, request: Request, draft: Draft, logits: Array) -> Verdict:
        """Return the accepted path and the token after it. `logits` [1 + len(draft), V] float32 are raw, before any logits processor."""

    def verify_drawn(self, request: Request, draft: Draft, logits: Array, draws: Array) -> Verdict:
        """The same where the target has drawn a token from each row already, or -1 for none. Reading `logits` may take time."""
        return self.verify(request, draft, logits)
