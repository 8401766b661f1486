"""Blind drafting: the floor that other drafters are compared with, and a way to measure the cost of verification itself.

`random` draws every token uniformly from the vocabulary: one in 50,000 is accepted. `frequent` drafts the tokens seen most often in this
prompt and answer, side by side as the next token (a chain on targets without trees).
"""

from __future__ import annotations

from collections import Counter

from outpace.drafters.base import Drafter, DrafterContext
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.sampling.noise import uniform
from outpace.tree.draft import Draft


class BlindDrafter(Drafter):
    """tokens=random (default) or tokens=frequent."""

    def __init__(self, context: DrafterContext, tokens: str = "random", seed: int = 0):
        if tokens not in ("random", "frequent"):
            raise BadInputError(f"blind: tokens must be random or frequent, not {tokens!r}")
        self.vocab_size, self.is_tree = context.vocab_size, context.target.capabilities.tree
        self.is_frequent, self.seed = tokens == "frequent", seed
        self.counts: dict[str, Counter[int]] = {}
        self.num_counted: dict[str, int] = {}

    def begin(self, request: Request) -> None:
        self.counts[request.id], self.num_counted[request.id] = Counter(), 0

    def propose(self, request: Request, budget: int) -> Draft:
        if not self.is_frequent:
            position = len(request.context)
            return Draft.chain([int(uniform(self.seed, position, i) * self.vocab_size) for i in range(budget)])
        counts = self.counts[request.id]
        counts.update(request.context[self.num_counted[request.id] :])
        self.num_counted[request.id] = len(request.context)
        tokens = [token for token, _ in counts.most_common(budget)]
        return Draft(tokens, [-1] * len(tokens)) if self.is_tree else Draft.chain(tokens)

    def end(self, request: Request) -> None:
        self.counts.pop(request.id, None)
        self.num_counted.pop(request.id, None)
