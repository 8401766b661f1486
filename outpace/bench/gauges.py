"""What a benchmark watches beside its own clock: the load of the machine, and the steps of every side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from outpace.engine.engine import Engine
from outpace.machine import LoadMeter
from outpace.trace.totals import StepTotals


class Gauges:
    """`load` counts what other programs took while our sides were timed; `steps` has the sums of each side."""

    def __init__(self, engine: Engine):
        self.engine, self.load = engine, LoadMeter()
        self.steps: dict[str, StepTotals] = {}

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Watch this block, in which one side runs."""
        totals = self.steps.setdefault(name, StepTotals())
        with self.load.timing(), self.engine.watched_by(totals.watch):
            yield

    def documents(self) -> list[dict[str, Any]]:
        """The sums of each side, JSON-ready."""
        return [{"drafter": name, **totals.document()} for name, totals in self.steps.items()]
