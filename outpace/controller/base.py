"""The face of a controller: how many nodes may be drafted, and which of them are worth their row in this pass?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from outpace.request import Request
from outpace.tree.draft import Draft


@dataclass(frozen=True)
class Plan:
    """The drafts to run, one a request, and the width to pad the pass to (0: what the target does by itself)."""

    drafts: list[Draft]
    num_tokens: int = 0


class Controller(ABC):
    """Decides how much a step guesses. One object serves all requests with the same settings."""

    @abstractmethod
    def budget(self, request: Request, num_running: int) -> int:
        """Nodes the drafter may propose, before the engine's own limits (tokens left, rows)."""

    def plan(self, requests: Sequence[Request], drafts: Sequence[Draft], num_other_tokens: int) -> Plan:
        """What to run of the proposals of all these requests; `num_other_tokens` of the pass belong to others."""
        return Plan(list(drafts))

    def record_forward_time(self, milliseconds: float) -> None:
        """How long the pass took that the last plan went into."""
        return None

    def observe(self, request: Request, proposal: Draft, known: Sequence[int]) -> None:
        """After a step: `known` are the tokens that really came after the text that `proposal`, the whole of it, continued."""
        return None


class FixedController(Controller):
    """Always the same number."""

    def __init__(self, num_draft_tokens: int):
        self.num_draft_tokens = num_draft_tokens

    def budget(self, request: Request, num_running: int) -> int:
        return self.num_draft_tokens
