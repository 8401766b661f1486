"""Plain decoding as a drafter that drafts nothing: the baseline runs in the same engine, through the same code."""

from __future__ import annotations

from outpace.drafters.base import Drafter, DrafterContext
from outpace.request import Request
from outpace.tree.draft import EMPTY_DRAFT, Draft


class NoDrafter(Drafter):
    """Drafts nothing."""

    num_draft_tokens = 0

    def __init__(self, context: DrafterContext):
        pass

    def propose(self, request: Request, budget: int) -> Draft:
        return EMPTY_DRAFT
