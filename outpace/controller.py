"""How much to guess: the budget of each step, and the measured cost of a pass by its number of rows."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from outpace.core import Request
from outpace.drafters.base import Drafter
from outpace.metrics import median
from outpace.targets.base import TargetModel
from outpace.tree import Segment
from outpace.verifiers.base import Verifier


class Controller(ABC):
    """Decides how many nodes a request may draft in this step."""

    @abstractmethod
    def budget(self, request: Request, num_running: int) -> int:
        """Nodes, before the engine's own limits (tokens left, rows)."""


class FixedController(Controller):
    """Always the same number."""

    def __init__(self, num_draft_tokens: int):
        self.num_draft_tokens = num_draft_tokens

    def budget(self, request: Request, num_running: int) -> int:
        return self.num_draft_tokens


@dataclass(frozen=True)
class Speculation:
    """How a request guesses and checks: parts shared by all requests with the same settings."""

    name: str
    drafter: Drafter
    verifier: Verifier
    controller: Controller


@dataclass(frozen=True)
class VerifyCost:
    """Median time of a pass of `num_tokens` rows."""

    num_tokens: int
    milliseconds: float


def measure_verify_cost(
    target: TargetModel, widths: Sequence[int] = (2, 4, 8, 12, 16), context: int = 256, repeats: int = 15
) -> list[VerifyCost]:
    """Time passes of each width behind `context` cached tokens. Each width keeps a slot of its own and runs several passes in a row,
    as decoding does; the widths take turns, so that drift hits all alike."""
    context = max(1, min(context, target.capabilities.max_len - max(widths) - 1))
    tokens = [3 + i % max(1, target.capabilities.vocab_size - 3) for i in range(max(context, *widths))]
    slots = [target.allocate(context + width + 1) for width in widths]
    times: dict[int, list[float]] = {width: [] for width in widths}
    try:
        for slot in slots:
            target.forward([Segment(slot, tokens[:context], wants_output=False)])
            target.keep(slot, tokens[:context], range(context))
        for _ in range(-(-repeats // 5)):
            for slot, width in zip(slots, widths, strict=True):
                for row in range(7):
                    started = time.perf_counter()
                    target.forward([Segment(slot, tokens[:width])])
                    if row >= 2:  # the first passes of a new width prepare it
                        times[width].append(time.perf_counter() - started)
    finally:
        for slot in slots:
            target.free(slot)
    return [VerifyCost(width, 1e3 * median(times[width])) for width in widths]
