"""What a pass costs on this machine: rows -> milliseconds, by context length and batch size, measured and kept on disk.

A table, not a line: kernels jump at certain widths, and a pass of another width than the one before may cost extra (`switch`).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from outpace import __version__
from outpace.files import write_whole
from outpace.progress import stages
from outpace.targets.base import TargetModel
from outpace.tree.segment import Segment, Slot

logger = logging.getLogger("outpace")

SIZES = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
SHORT, LONG, BATCH = 128, 1024, 8  # tokens of context, sequences in the batched table
QUARTILE = 0.25
RUN, WARM_UP = 12, 4  # passes of one width in a row, and those of them that do not count
FORMAT = 2


@dataclass(frozen=True)
class VerifyCost:
    """Time of a pass of `num_tokens` rows."""

    num_tokens: int
    milliseconds: float


@dataclass(frozen=True)
class CostTable:
    """Milliseconds of a pass: `alone` for one sequence with little context, `batched` for BATCH sequences, both by `sizes` (rows in all).

    `per_context_token` is what a token of context adds, for each width; `switch` what a pass adds that is not as wide as the last;
    `idle_row` what a row costs less that is only padding: nobody wants its logits.
    """

    sizes: tuple[float, ...]
    alone: tuple[float, ...]
    batched: tuple[float, ...]
    per_context_token: tuple[float, ...]
    switch: float = 0.0
    idle_row: float = 0.0

    def milliseconds(self, rows: int, num_seqs: int = 1, num_context: int = SHORT, num_idle: int = 0) -> float:
        """A pass of `rows` rows, `num_idle` of them padding, of `num_seqs` sequences with `num_context` cached tokens in all."""
        share = min(1.0, max(0.0, (num_seqs - 1) / (BATCH - 1)))
        alone, batched, context = self._by_rows
        base = (1 - share) * _at(alone, rows) + share * _at(batched, rows)
        return base - num_idle * self.idle_row + max(0.0, num_context - SHORT * num_seqs) * _at(context, rows // num_seqs)

    @cached_property
    def _by_rows(self) -> tuple[list[float], ...]:
        """The three curves for 0, 1, 2, … rows up to the widest: straight lines between the widths. Looked up many times a step."""
        rows = np.arange(int(self.sizes[-1]) + 1)
        return tuple(np.interp(rows, self.sizes, values).tolist() for values in (self.alone, self.batched, self.per_context_token))

    def save(self, path: Path) -> None:
        """Write the table whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, path: Path) -> CostTable | None:
        """The table in a file; None if there is none or it cannot be used."""
        try:
            facts = json.loads(path.read_text("utf-8"))
            if facts.pop("format") != FORMAT:
                return None
            switch, idle_row = float(facts.pop("switch")), float(facts.pop("idle_row"))
            columns = {name: tuple(float(value) for value in values) for name, values in facts.items()}
            return cls(**columns, switch=switch, idle_row=idle_row)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _at(curve: Sequence[float], rows: int) -> float:
    """The value at so many rows; beyond the widest measured the curve goes on as it ended."""
    beyond = rows - len(curve) + 1
    return curve[rows] if beyond <= 0 else curve[-1] + beyond * max(0.0, curve[-1] - curve[-2])


def cost_of(target: TargetModel, folder: Path) -> CostTable:
    """The table of this target on this machine: from a file in `folder` if it is there, else measured (seconds) and written to it."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{target.fingerprint}-{_machine()}-{__version__}")
    path = folder / f"{name}.json" if target.fingerprint else None
    table = CostTable.load(path) if path else None
    if table is None:
        with stages("measuring the cost of a pass (once)") as show:
            show("about ten seconds")
            table = measure_cost(target)
        if path:
            try:
                table.save(path)
            except OSError as error:
                logger.warning("the cost table cannot be kept in %s: %s", path, error.strerror)
    return table


def measure_cost(target: TargetModel, repeats: int = 16) -> CostTable:
    """Measure all of a CostTable; about 600 passes."""
    room = target.capabilities.max_len - max(SIZES) - 1
    alone = _times(target, [(num_tokens, 1) for num_tokens in SIZES], min(SHORT, room), repeats)
    wide = [num_tokens for num_tokens in SIZES if num_tokens >= 2 * BATCH]
    batched = _times(
        target, [(num_tokens, BATCH) for num_tokens in (BATCH, *wide)], min(SHORT, room), repeats
    )  # the first is plain decoding
    longer = _times(target, [(num_tokens, 1) for num_tokens in (2, 8, 32)], min(LONG, room), repeats)
    added = [max(0.0, longer[w, 1] - alone[w, 1]) / max(1, min(LONG, room) - SHORT) for w in (2, 8, 32)]
    return CostTable(
        sizes=SIZES,
        alone=_rising([alone[num_tokens, 1] for num_tokens in SIZES]),
        batched=_rising(np.interp(SIZES, wide, [batched[num_tokens, BATCH] for num_tokens in wide]).tolist()),
        per_context_token=tuple(float(value) for value in np.interp(SIZES, (2, 8, 32), added)),
        switch=_switch_cost(target, min(SHORT, room), repeats, alone),
        idle_row=max(0.0, (batched[2 * BATCH, BATCH] - batched[BATCH, BATCH]) / BATCH),
    )


def measure_verify_cost(
    target: TargetModel, sizes: Sequence[int] = (2, 4, 8, 12, 16), context: int = 256, repeats: int = 15
) -> list[VerifyCost]:
    """Time of passes of each width behind `context` cached tokens."""
    context = max(1, min(context, target.capabilities.max_len - max(sizes) - 1))
    times = _times(target, [(num_tokens, 1) for num_tokens in sizes], context, repeats)
    return [VerifyCost(num_tokens, times[num_tokens, 1]) for num_tokens in sizes]


def _machine() -> str:
    """The processor and how many of its cores this process may use."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0].partition(':')[2].strip() if names else platform.processor()}-{cores}"


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    """The values as a curve that never falls: noise only ever adds, so a wider pass that was faster bounds the narrower ones."""
    return tuple(float(value) for value in np.minimum.accumulate(values[::-1])[::-1])


def _tokens(target: TargetModel, count: int) -> list[int]:
    return [3 + i % max(1, target.capabilities.vocab_size - 3) for i in range(count)]


def _filled(target: TargetModel, context: int, num_tokens: int) -> Slot:
    """A slot with `context` cached tokens and room for a pass of `num_tokens`; equal starts are shared where the target can."""
    tokens = _tokens(target, context + 1)
    slot = target.allocate(context + num_tokens + 1, tokens)
    if part := tokens[slot.num_cached : context]:
        target.forward([Segment(slot, part, wants_output=False)])
        target.accept(slot, part, range(len(part)))
    return slot


def _times(target: TargetModel, shapes: Sequence[tuple[int, int]], context: int, repeats: int) -> dict[tuple[int, int], float]:
    """Milliseconds of passes of (rows, sequences), lower quartile, for noise only ever adds. Each shape runs several passes in a row, as
    decoding does; the shapes take turns, so that drift hits all alike."""
    num_slots = max(num_seqs for _, num_seqs in shapes)
    slots = [_filled(target, context, max(num_tokens for num_tokens, _ in shapes)) for _ in range(num_slots)]
    tokens = _tokens(target, max(num_tokens for num_tokens, _ in shapes))
    times: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    try:
        for _ in range(-(-repeats // (RUN - WARM_UP))):
            for num_tokens, num_seqs in shapes:
                sizes = [num_tokens // num_seqs + (i < num_tokens % num_seqs) for i in range(num_seqs)]
                batch = [Segment(slot, tokens[:size]) for slot, size in zip(slots, sizes, strict=False)]
                for index in range(RUN):
                    started = time.perf_counter()
                    target.forward(batch, num_tokens)
                    if index >= WARM_UP:  # the first passes of a new width prepare it
                        times[num_tokens, num_seqs].append(1e3 * (time.perf_counter() - started))
    finally:
        for slot in slots:
            target.free(slot)
    return {shape: float(np.quantile(values, QUARTILE)) for shape, values in times.items()}


def _switch_cost(target: TargetModel, context: int, repeats: int, alone: dict[tuple[int, int], float]) -> float:
    """What a pass costs more when the one before had another width."""
    sizes, slot = (8, 4), _filled(target, context, 8)
    tokens, extra = _tokens(target, 8), []
    try:
        for i in range(2 * repeats + 2):
            num_tokens = sizes[i % 2]
            started = time.perf_counter()
            target.forward([Segment(slot, tokens[:num_tokens])], num_tokens)
            if i >= 2:
                extra.append(1e3 * (time.perf_counter() - started) - alone[num_tokens, 1])
    finally:
        target.free(slot)
    return max(0.0, float(np.quantile(extra, QUARTILE)))
