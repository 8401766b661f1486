"""Sums over steps: where the time goes, which positions of drafts are accepted, what a forward pass costs by its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from outpace.engine.metrics import median
from outpace.engine.step_record import PARTS, StepRecord

MAX_POSITIONS = 16  # of a draft, in the document


@dataclass
class StepTotals:
    """Sums over the steps that decode and run no part of a prompt. Seconds are by part of PARTS; `passes`: tokens in a forward pass ->
    its seconds, of each such pass."""

    num_steps: int = 0
    num_tokens: int = 0  # delivered
    num_drafts: int = 0
    num_accepted: list[int] = field(default_factory=list)  # at each position of a draft
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    passes: dict[int, list[float]] = field(default_factory=dict)

    def watch(self, record: StepRecord) -> None:
        """Add a step of the engine."""
        if not record.num_prompt_tokens:
            answers = [(step.num_drafted, step.num_accepted, len(step.token_ids)) for step in record.outputs]
            self.add(record.seconds, record.num_tokens, answers)

    def add(self, seconds: Mapping[str, float], num_tokens: int, answers: Iterable[tuple[int, int, int]]) -> None:
        """Add a step with `num_tokens` in the forward pass; an answer is (draft tokens, accepted ones, delivered tokens)."""
        self.num_steps += 1
        for part in PARTS:
            self.seconds[part] += seconds[part]
        self.passes.setdefault(num_tokens, []).append(seconds["forward"])
        for num_drafted, num_accepted, num_delivered in answers:
            self.num_tokens += num_delivered
            self.num_drafts += num_drafted > 0
            self.num_accepted.extend([0] * (num_accepted - len(self.num_accepted)))
            for position in range(num_accepted):
                self.num_accepted[position] += 1

    def document(self) -> dict[str, Any]:
        """JSON-ready: {"num_steps", "num_tokens", "num_drafts", "milliseconds": {part: per step}, "acceptance_by_position"}.

        The last has the share of drafts, as vLLM counts them, whose token at position 1, 2, … was accepted.
        """
        steps, drafts = max(1, self.num_steps), self.num_drafts
        return {
            "num_steps": self.num_steps,
            "num_tokens": self.num_tokens,
            "num_drafts": drafts,
            "milliseconds": {part: round(1e3 * seconds / steps, 4) for part, seconds in self.seconds.items()},
            "acceptance_by_position": [round(number / drafts, 4) for number in self.num_accepted[:MAX_POSITIONS]] if drafts else [],
        }

    def pass_cost(self, least: int = 3) -> list[dict[str, Any]]:
        """[{"num_tokens", "milliseconds", "num_passes"}]: the median pass of each size that ran at least `least` times."""
        sizes = sorted(size for size, times in self.passes.items() if len(times) >= least)
        return [
            {"num_tokens": size, "milliseconds": 1e3 * median(self.passes[size]), "num_passes": len(self.passes[size])} for size in sizes
        ]
