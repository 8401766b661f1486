"""Does a drafter earn the time it takes? Those that do not are left out for a while, and tried again later."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

MEMORY = 0.9  # weight of the past in the running means
TRIAL, REST, LONGEST_REST = 24, 32, 512  # steps


@dataclass
class _Record:
    gained: float = 0.0  # expected tokens a step, shared with others of the same guess, running mean
    milliseconds: float = 0.0  # a step, running mean
    num_steps: int = 0  # since it was last taken in
    rest: int = 0  # steps left to stay out
    next_rest: int = REST


class DrafterStats:
    """Running accounts of all drafters of a combination; `paused` are those to leave out."""

    def __init__(self, names: Collection[str]):
        self.records = {name: _Record() for name in names}

    @property
    def paused(self) -> set[str]:
        return {name for name, record in self.records.items() if record.rest > 0}

    def account(self, gained: Mapping[str, float], milliseconds: Mapping[str, float], rate: float) -> None:
        """One step: tokens expected of each drafter, and its time in milliseconds; `rate` in tokens a millisecond."""
        for name, record in self.records.items():
            if record.rest > 0:
                record.rest -= 1
                record.num_steps = 0
                continue
            keep = MEMORY if record.num_steps else 0.0
            record.gained = keep * record.gained + (1 - keep) * gained.get(name, 0.0)
            record.milliseconds = keep * record.milliseconds + (1 - keep) * milliseconds.get(name, 0.0)
            record.num_steps += 1
            if record.num_steps < TRIAL:
                continue
            if record.gained < rate * record.milliseconds:
                record.rest, record.next_rest = record.next_rest, min(2 * record.next_rest, LONGEST_REST)
            else:
                record.next_rest = REST
