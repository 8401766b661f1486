"""The cost of a forward pass on this machine: tokens -> milliseconds, by context length and batch size, measured once and kept on disk.

It is a table, not a line: kernels jump at certain sizes, and a forward pass of another size than the one before may cost extra (`switch`).
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from outpace import __version__
from outpace.arrays import Array
from outpace.files import write_whole
from outpace.machine import num_cores, processor
from outpace.params import SamplingParams
from outpace.progress import slow
from outpace.targets.base import TargetModel
from outpace.tree.segment import Drawing, Segment, Slot

logger = logging.getLogger("outpace")

SIZES = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
SHORT, LONG, BATCH = 128, 1024, 8  # tokens of context, sequences in the batched table
QUARTILE = 0.25
RUN, WARM_UP = 5, 2  # forward passes of one size in a row, and how many of them are not counted
RUN_SECONDS, SECONDS = 0.5, 4.0  # where passes are slow, a run and a measurement end when they have taken this long
FORMAT = 4
READ = 128  # tokens of a text whose reading is timed
GREEDY = Drawing(SamplingParams(), 0)  # as in decoding: logits stay on the device of a target that draws


@dataclass(frozen=True)
class VerifyCost:
    """Time of a forward pass of `num_tokens` tokens."""

    num_tokens: int
    milliseconds: float


@dataclass(frozen=True)
class CostTable:
    """Milliseconds of a forward pass: `alone` for one sequence with little context, `batched` for BATCH sequences; `sizes` are the numbers
    of tokens in all.

    `per_context_token` is what a token of context adds, for each size; `switch` what a change of size adds; `idle_row` how much less a
    padding token costs, whose logits are not needed.
    """

    sizes: tuple[float, ...]
    alone: tuple[float, ...]
    batched: tuple[float, ...]
    per_context_token: tuple[float, ...]
    switch: float = 0.0
    idle_row: float = 0.0
    measured_at: str = ""  # ISO date and time

    def milliseconds(self, num_tokens: int, num_seqs: int = 1, num_context: int = SHORT, num_idle: int = 0) -> float:
        """A forward pass of `num_tokens` tokens (`num_idle` of them padding) of `num_seqs` sequences with `num_context` cached."""
        share = min(1.0, max(0.0, (num_seqs - 1) / (BATCH - 1)))
        alone, batched, context = self._curves
        base = (1 - share) * _at(alone, num_tokens) + share * _at(batched, num_tokens)
        return base - num_idle * self.idle_row + max(0.0, num_context - SHORT * num_seqs) * _at(context, num_tokens // num_seqs)

    @cached_property
    def _curves(self) -> tuple[list[float], ...]:
        """The three curves for 0, 1, 2, ... tokens up to the largest size, interpolated linearly. Looked up many times per step."""
        tokens = np.arange(int(self.sizes[-1]) + 1)
        return tuple(np.interp(tokens, self.sizes, values).tolist() for values in (self.alone, self.batched, self.per_context_token))

    def scaled(self, sizes: Sequence[float], factors: Sequence[float]) -> CostTable:
        """The table multiplied by these factors at these sizes, interpolated between them; dated now. Sizes outside of these take the
        factor that changes least: what slows all sizes is in it, too, and more may be due to the kernel of one size."""
        usual = min(factors, key=lambda factor: abs(np.log(factor)))
        by_size = np.interp(self.sizes, sizes, factors, usual, usual)
        alone, batched, context = (
            tuple((np.array(curve) * by_size).tolist()) for curve in (self.alone, self.batched, self.per_context_token)
        )
        return replace(self, alone=_rising(alone), batched=_rising(batched), per_context_token=context, measured_at=_now())

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
            switch, idle_row, measured_at = float(facts.pop("switch")), float(facts.pop("idle_row")), str(facts.pop("measured_at"))
            columns = {name: tuple(float(value) for value in values) for name, values in facts.items()}
            if not columns["sizes"] or not np.isfinite([*columns.values()]).all():  # a ValueError if their lengths differ
                return None
            return cls(**columns, switch=switch, idle_row=idle_row, measured_at=measured_at)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _at(curve: Sequence[float], num_tokens: int) -> float:
    """The value at `num_tokens`; beyond the largest measured size the curve continues as it ended."""
    beyond = num_tokens - len(curve) + 1
    return curve[num_tokens] if beyond <= 0 else curve[-1] + beyond * max(0.0, curve[-1] - curve[-2])


def cost_of(target: TargetModel, folder: Path, is_new: bool = False) -> CostTable:
    """The table of this target on this machine: read from a file in `folder`, or measured (some seconds) and written there. `is_new`
    measures again."""
    path = _path_of(target, folder)
    table = CostTable.load(path) if path and not is_new else None
    if table is None:
        with slow("measuring the cost of a forward pass (once): ten seconds, up to a minute for a slow model"):
            table = measure_cost(target)
        keep(table, target, folder)
    return table


def keep(table: CostTable, target: TargetModel, folder: Path) -> None:
    """Write the table of a target to its file in `folder`; only a warning if that is not possible."""
    path = _path_of(target, folder)
    try:
        if path:
            table.save(path)
    except OSError as error:
        logger.warning("the cost table cannot be kept in %s: %s", path, error.strerror)


def _path_of(target: TargetModel, folder: Path) -> Path | None:
    """The file of this target, machine and version; None for a target without a fingerprint."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{target.fingerprint}-{processor()}-{num_cores()}-{__version__}")
    return folder / f"{name}.json" if target.fingerprint else None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def measure_cost(target: TargetModel, repeats: int = 16) -> CostTable:
    """Measure a whole CostTable: about 600 forward passes, a quarter of that where they are slow."""
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
        switch=_switch_cost(target, min(SHORT, room), repeats),
        idle_row=max(0.0, (batched[2 * BATCH, BATCH] - batched[BATCH, BATCH]) / BATCH),
        measured_at=_now(),
    )


def measure_verify_cost(
    target: TargetModel, sizes: Sequence[int] = (2, 4, 8, 12, 16), context: int = 256, repeats: int = 15
) -> list[VerifyCost]:
    """Time of a forward pass of each size behind `context` cached tokens."""
    context = max(1, min(context, target.capabilities.max_len - max(sizes) - 1))
    times = _times(target, [(num_tokens, 1) for num_tokens in sizes], context, repeats)
    return [VerifyCost(num_tokens, times[num_tokens, 1]) for num_tokens in sizes]


def draft_costs(
    draft: TargetModel, target: TargetModel, turn: AbstractContextManager[None] | None = None, repeats: int = 9
) -> tuple[float, float, float]:
    """(a forward pass of the draft model, a further token in one of the target's, a token of a long text in one of the draft model's), all
    relative to a forward pass of the target with 4 tokens.

    The two models take turns, as in decoding: each finds the caches filled by the other. `turn` is held for a few forward passes at a
    time, so that other users of the target go on in between.
    """
    turn = turn or nullcontext()
    draft.settle()
    target.settle()
    shapes = [(draft, 2), (target, 4), (draft, 2), (target, 8)]
    passes = [draft.forward_frequent if model is draft else partial(target.forward, num_tokens=count) for model, count in shapes]
    context = max(1, min(256, draft.capabilities.max_len - 9, target.capabilities.max_len - 9))
    times: list[list[float]] = [[] for _ in shapes]
    slots: list[Slot] = []
    stack = ExitStack()
    try:
        for model, _ in shapes:
            with turn:
                slots.append(_filled(stack, model, context, 8))
        for _ in range(repeats):
            with turn:
                for (model, num_tokens), run, slot, found in zip(shapes, passes, slots, times, strict=True):
                    found.append(_milliseconds(run, [Segment(slot, _tokens(model, num_tokens))]))
    finally:
        with turn:
            stack.close()
    first, four, second, eight = (float(np.median(found)) for found in times)
    return (first + second) / 2 / four, max(0.0, eight / four - 1.0) / 4, _reading_time(draft, turn) / four


def _reading_time(target: TargetModel, turn: AbstractContextManager[None]) -> float:
    """Milliseconds per token of a text of which no logits are wanted: the shortest of some, as noise only adds time."""
    times = []
    num_tokens = max(1, min(READ, target.capabilities.max_len - 1))
    with ExitStack() as stack:
        slot = _slot(stack, target, num_tokens)
        text = [Segment(slot, _tokens(target, num_tokens), wants_output=False)]
        for _ in range(4):
            with turn:
                times.append(_milliseconds(target.forward, text))
    return min(times) / num_tokens


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    """The values as a curve that never falls: noise only adds time, so a larger forward pass that was faster bounds the smaller ones."""
    return tuple(float(value) for value in np.minimum.accumulate(values[::-1])[::-1])


def _tokens(target: TargetModel, count: int) -> list[int]:
    return [3 + i % max(1, target.capabilities.vocab_size - 3) for i in range(count)]


def _milliseconds(run: Callable[..., object], *arguments: object) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    run(*arguments)
    return 1e3 * (time.perf_counter() - started)


def _rounds(most: int, least: int = 2, seconds: float = SECONDS) -> Iterator[int]:
    """Count to `most`, but end after `seconds` once there are `least` rounds, and after five times `seconds` anyway: so a slow model is
    measured less often, not for minutes."""
    started = time.perf_counter()
    for count in range(most):
        if count and time.perf_counter() - started > (seconds if count >= least else 5 * seconds):
            return
        yield count


def _slot(stack: ExitStack, target: TargetModel, num_tokens: int, prefix: Sequence[int] = ()) -> Slot:
    """A slot that is freed with the stack."""
    slot = target.allocate(num_tokens, prefix)
    stack.callback(target.free, slot)
    return slot


def _filled(stack: ExitStack, target: TargetModel, context: int, num_tokens: int) -> Slot:
    """A slot with `context` cached tokens and room for a forward pass of `num_tokens`; equal prefixes are shared where the target can. It
    is freed with the stack."""
    tokens = _tokens(target, context + 1)
    slot = _slot(stack, target, context + num_tokens + 1, tokens)
    if part := tokens[slot.num_cached : context]:
        target.forward([Segment(slot, part, wants_output=False)])
        target.accept(slot, part, range(len(part)))
    return slot


def _times(target: TargetModel, shapes: Sequence[tuple[int, int]], context: int, repeats: int) -> dict[tuple[int, int], float]:
    """Milliseconds of forward passes of (tokens, sequences). The shapes take turns, each with a few passes in a row, as in decoding."""
    target.settle()
    num_slots, most = max(num_seqs for _, num_seqs in shapes), max(num_tokens for num_tokens, _ in shapes)
    tokens = _tokens(target, most)
    turns: list[list[float]] = []
    with ExitStack() as stack:
        slots = [_filled(stack, target, context, most) for _ in range(num_slots)]
        for _ in _rounds(-(-repeats // (RUN - WARM_UP))):
            turn = []
            for num_tokens, num_seqs in shapes:
                sizes = [num_tokens // num_seqs + (i < num_tokens % num_seqs) for i in range(num_seqs)]
                batch = [Segment(slot, tokens[:size], drawing=GREEDY) for slot, size in zip(slots, sizes, strict=False)]
                found = [_milliseconds(target.forward, batch, num_tokens) for _ in _rounds(RUN, WARM_UP + 1, RUN_SECONDS)]
                turn.append(float(np.median(found[WARM_UP:] or found[-1:])))  # the first runs of a new size prepare it
            turns.append(turn)
    return dict(zip(shapes, without_drift(np.array(turns).T), strict=True))


def without_drift(times: Array) -> list[float]:
    """What each shape takes, from its times in several turns [shapes, turns]. In a turn the machine may be slower for all shapes alike, so
    each time is divided by how slow its turn was; the result is that of a fast turn."""
    slowness = np.median(times / times.min(axis=1, keepdims=True), axis=0)
    found: list[float] = (np.median(times / slowness, axis=1) * np.quantile(slowness, QUARTILE)).tolist()
    return found


def _switch_cost(target: TargetModel, context: int, repeats: int) -> float:
    """What a forward pass costs more if the one before had another size: each size runs twice in a row, and neighbours are compared, as
    the machine may be slower a second later."""
    tokens = _tokens(target, 8)
    with ExitStack() as stack:
        slot = _filled(stack, target, context, 8)
        batches = {size: [Segment(slot, tokens[:size], drawing=GREEDY)] for size in (8, 4)}
        times = [[_milliseconds(target.forward, batches[size], size) for size in (8, 8, 4, 4)] for _ in _rounds(repeats + 1, 5)]
    changed, same, changed_back, same_again = np.array(times[1:] or times).T
    return max(0.0, float(np.median(changed - same + changed_back - same_again)) / 2)
