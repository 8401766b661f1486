"""Counters with vLLM's names and definitions. Rates are derived, never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Metrics:
    """Totals since the engine started. Seconds are wall time: of whole steps, of forward passes, of drafting."""

    num_steps: int = 0
    num_decode_steps: int = 0  # summed over requests
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_drafter_errors: int = 0  # requests that continued without their drafter
    num_preemptions: int = 0  # times that a request gave its place in the K/V cache to an older one
    num_accepted_tokens_per_pos: list[int] = field(default_factory=list)
    step_seconds: float = 0.0
    forward_seconds: float = 0.0
    draft_seconds: float = 0.0

    def add_verdict(self, num_draft_tokens: int, num_accepted: int, num_tokens: int) -> None:
        """Record one request's step: draft tokens, accepted draft tokens, tokens delivered."""
        self.num_decode_steps += 1
        self.num_generation_tokens += num_tokens
        self.num_drafts += num_draft_tokens > 0
        self.num_draft_tokens += num_draft_tokens
        self.num_accepted_tokens += num_accepted
        missing = num_accepted - len(self.num_accepted_tokens_per_pos)
        self.num_accepted_tokens_per_pos.extend([0] * max(0, missing))
        for position in range(num_accepted):
            self.num_accepted_tokens_per_pos[position] += 1

    @property
    def host_overhead(self) -> float:
        """Share of step time spent outside the forward pass."""
        return 1.0 - self.forward_seconds / self.step_seconds if self.step_seconds else 0.0


def tokens_per_step(num_tokens: int, num_steps: int) -> float:
    """Tokens delivered / steps, steps without a draft included."""
    return num_tokens / num_steps if num_steps else 0.0


def mean_acceptance_length(num_accepted: int, num_drafts: int) -> float:
    """1 + accepted draft tokens / drafts, as vLLM defines it: tokens of a step that drafted, the bonus or recovered token included."""
    return 1.0 + num_accepted / num_drafts if num_drafts else 1.0


def acceptance_rate(num_accepted: int, num_drafted: int) -> float:
    """Accepted draft tokens / drafted tokens."""
    return num_accepted / num_drafted if num_drafted else 0.0


def median(values: Sequence[float]) -> float:
    """Median; 0 for an empty sequence."""
    ordered = sorted(values)
    n = len(ordered)
    return 0.0 if not n else (ordered[n // 2] + ordered[(n - 1) // 2]) / 2
