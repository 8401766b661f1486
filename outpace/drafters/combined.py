"""Several drafters as one tree: `a+b+c`. Earlier ones come first, equal guesses are merged, later ones fill the budget left.

Every drafter sees every step, so that its tables stay warm even when its guesses found no room.
"""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core import Draft, Request, Verdict
from outpace.drafters.base import Drafter
from outpace.targets.base import TargetOutput
from outpace.tree import merge


class CombinedDrafter(Drafter):
    """Built from instances by the spec `a+b+c`; its budget is the largest of theirs."""

    def __init__(self, parts: Sequence[Drafter], names: Sequence[str]):
        self.parts, self.names = list(parts), list(names)
        self.num_draft_tokens = max(part.num_draft_tokens for part in parts)

    def begin(self, request: Request) -> None:
        for part in self.parts:
            part.begin(request)

    def propose(self, request: Request, budget: int) -> Draft:
        return merge([part.propose(request, budget) for part in self.parts], budget, self.names)

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        for part in self.parts:
            part.observe(request, verdict, output)

    def end(self, request: Request) -> None:
        for part in self.parts:
            part.end(request)
