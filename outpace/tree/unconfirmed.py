"""Unconfirmed tokens: predicted by the last forward pass, at positions in it where the bits may differ from plain decoding.

On targets with `exact_logits` but not `exact_trees` a token has plain decoding's bits only if its ancestors stand right before it in the
forward pass. What was drawn from displaced tokens is not committed: it leads the next draft and is verified again there, which costs a
token each and no forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from outpace.tree.draft import Draft, Verdict, graft


@dataclass(frozen=True)
class Unconfirmed:
    """`sources`: the drafter that proposed each token, "" for the model's own."""

    token_ids: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    def graft(self, draft: Draft) -> Draft:
        """The draft behind these tokens."""
        return graft(self.token_ids, draft)

    def held(self, known: Sequence[int]) -> bool:
        """Whether the tokens that really came, `known`, begin with these."""
        return list(known[: len(self)]) == self.token_ids

    @classmethod
    def split(cls, verdict: Verdict, sources: Sequence[str]) -> tuple[Verdict, Unconfirmed]:
        """(what may be committed, what has to be verified again); `sources` as of the verdict's path and its last token."""
        place = next((i for i, node in enumerate(verdict.path) if node != i), None)
        if place is None:
            return verdict, NONE_UNCONFIRMED
        tokens = [verdict.draft.token_ids[node] for node in verdict.path[place:]]
        certain = Verdict(verdict.draft, verdict.path[:place], tokens[0])
        last = [] if verdict.next_token is None else [verdict.next_token]
        return certain, cls([*tokens[1:], *last], list(sources[place + 1 :]))

    def first(self, count: int) -> Unconfirmed:
        """The first `count` of them."""
        return Unconfirmed(self.token_ids[: max(0, count)], self.sources[: max(0, count)])


NONE_UNCONFIRMED = Unconfirmed()
