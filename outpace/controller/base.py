"""The interface of a controller, which decides how many nodes are drafted and which of them are verified."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from outpace.request import Request
from outpace.tree.draft import Draft


@dataclass(frozen=True)
class Plan:
    """The drafts to verify, one per request, and the number of tokens to pad the forward pass to (0: the target decides)."""

    drafts: list[Draft]
    num_tokens: int = 0


class Controller(ABC):
    """Decides how much a step drafts. One object serves all requests with the same settings."""

    @abstractmethod
    def budget(self, request: Request, num_running: int) -> int:
        """Nodes the drafter may propose, before the engine applies its own limits (tokens left, size of a draft)."""

    def plan(self, requests: Sequence[Request], drafts: Sequence[Draft], num_other_tokens: int) -> Plan:
        """What to verify of these requests' proposals; `num_other_tokens` tokens of the forward pass belong to other requests."""
        return Plan(list(drafts))

    def record_forward_time(self, milliseconds: float) -> None:
        """Duration of the forward pass that ran the last plan."""
        return None

    def observe(self, request: Request, proposal: Draft, known: Sequence[int]) -> None:
        """After a step: `known` are the tokens that followed the text which the whole `proposal` continued."""
        return None


class FixedController(Controller):
    """Always drafts the same number of tokens."""

    def __init__(self, num_draft_tokens: int):
        self.num_draft_tokens = num_draft_tokens

    def budget(self, request: Request, num_running: int) -> int:
        return self.num_draft_tokens
