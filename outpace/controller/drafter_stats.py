"""Gains and costs of each drafter. A drafter that costs more time than it saves is paused, and tried again later."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

MEMORY = 0.9  # weight of the past in the running means
TRIAL, PAUSE, LONGEST_PAUSE = 24, 32, 512  # steps


@dataclass
class _Record:
    gained: float = 0.0  # expected tokens per step, shared with drafters of the same node; running mean
    milliseconds: float = 0.0  # per step, running mean
    num_steps: int = 0  # since the last pause
    pause: int = 0  # steps left to pause
    next_pause: int = PAUSE


class DrafterStats:
    """Running accounts of all drafters of a combination; `paused` names those to leave out."""

    def __init__(self, names: Collection[str]):
        self.records = {name: _Record() for name in names}

    @property
    def paused(self) -> set[str]:
        return {name for name, record in self.records.items() if record.pause > 0}

    def account(self, gained: Mapping[str, float], milliseconds: Mapping[str, float], rate: float) -> None:
        """Record one step: the tokens expected from each drafter and its time in milliseconds; `rate` is in tokens per millisecond."""
        for name, record in self.records.items():
            if record.pause > 0:
                record.pause -= 1
                record.num_steps = 0
                continue
            keep = MEMORY if record.num_steps else 0.0
            record.gained = keep * record.gained + (1 - keep) * gained.get(name, 0.0)
            record.milliseconds = keep * record.milliseconds + (1 - keep) * milliseconds.get(name, 0.0)
            record.num_steps += 1
            if record.num_steps < TRIAL:
                continue
            if record.gained < rate * record.milliseconds:
                record.pause, record.next_pause = record.next_pause, min(2 * record.next_pause, LONGEST_PAUSE)
            else:
                record.next_pause = PAUSE
