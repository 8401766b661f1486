"""Exact verification, the default: the text is identical to that of plain decoding.

At each node the token is drawn as plain decoding would draw it; the noise depends on (seed, position) only. If one of the node's
children is that token, the child is accepted and verification continues there; otherwise it stops. One rule covers greedy and sampled
decoding, chains and trees (coupled sampling, Daliri et al. 2408.07978).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from outpace.arrays import Array
from outpace.request import Request
from outpace.tree.draft import Draft, Verdict
from outpace.verifiers.base import Verifier


class ExactVerifier(Verifier):
    """A seed gives the same text with any drafter and with none."""

    lossless = True
    same_text = True

    def verify(self, request: Request, draft: Draft, logits: Array) -> Verdict:
        return _walk(draft, lambda row, path, position: request.sampler.draw(logits[row], path, position), len(request.token_ids))

    def verify_drawn(self, request: Request, draft: Draft, logits: Array, draws: Array) -> Verdict:
        def draw(row: int, path: Sequence[int], position: int) -> int:
            token = int(draws[row])
            return token if token >= 0 else request.sampler.draw(logits[row], path, position)

        return _walk(draft, draw, len(request.token_ids))


def _walk(draft: Draft, draw: Callable[[int, Sequence[int], int], int], position: int) -> Verdict:
    """Follow the drawn tokens through the draft; the first one is drawn at `position`, `draw(row, path, position)` gives them."""
    children = draft.children()
    node = -1
    path: list[int] = []
    tokens: list[int] = []
    while True:
        try:
            token = draw(node + 1, tokens, position)
        except Exception as error:  # as in plain decoding, the tokens before the failing row are valid
            return Verdict(draft, path, None, error)
        child = children.get(node, {}).get(token)
        if child is None:
            return Verdict(draft, path, token)
        node, position = child, position + 1
        path.append(child)
        tokens.append(token)
