"""What one step of the engine did and how long its parts took, for whoever watches it (`Engine.watchers`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from outpace.request import StepOutput

PARTS = ("draft", "forward", "verify", "rest")  # drafting includes what drafters learn from the outputs


@dataclass(frozen=True)
class StepRecord:
    """One step. `seconds`: by part of PARTS; `num_tokens`: in the forward pass, without padding, `num_prompt_tokens` of them of prompts;
    `ended_at`: by time.perf_counter()."""

    ended_at: float
    seconds: dict[str, float]
    num_tokens: int
    num_prompt_tokens: int
    outputs: Sequence[StepOutput]


class StepWatch:
    """Times the parts of a step, which starts now. What no part has is the rest."""

    def __init__(self) -> None:
        self.started_at = time.perf_counter()
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count the time inside this block to a part."""
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started

    def record(self, num_tokens: int, num_prompt_tokens: int, outputs: Sequence[StepOutput]) -> StepRecord:
        """The step ends now."""
        ended = time.perf_counter()
        rest = max(0.0, ended - self.started_at - sum(self.seconds.values()))
        return StepRecord(ended, {**self.seconds, "rest": rest}, num_tokens, num_prompt_tokens, outputs)
