"""How a request drafts and verifies: the parts that all requests with the same settings share."""

from __future__ import annotations

from dataclasses import dataclass

from outpace.controller.base import Controller
from outpace.drafters.base import Drafter
from outpace.verifiers.base import Verifier


@dataclass(frozen=True)
class Strategy:
    """A drafter, a verifier and a controller. `name` is the drafter spec."""

    name: str
    drafter: Drafter
    verifier: Verifier
    controller: Controller
