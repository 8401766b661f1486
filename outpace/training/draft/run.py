"""`outpace train draft`: from data to a folder with a distilled draft model and its metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.drafters.draft_model.price import DraftPrice
from outpace.heads.draft_record import DraftRecord
from outpace.training.data.shards import Rows
from outpace.training.draft.student import Student
from outpace.training.draft.task import DraftSettings, DraftTask
from outpace.training.held_out import NOT_OWN, are_own
from outpace.training.loop import LoopSettings, train
from outpace.training.processes import processes
from outpace.training.record import check_tensorboard, draw_curves
from outpace.training.stages import Run, Source, check_rows, open_llm, rows_of, split_texts

MAX_DEPTH = 7  # the drafter's own
MAX_HELD_OUT_ROWS = 8_192


@dataclass(frozen=True)
class Worth:
    """Metrics of a draft model on held-out texts. agreement: share of rows where its likeliest token is that of its teacher.

    acceptance: tokens per step with chains of 1, 2, … MAX_DEPTH draft tokens; pass_cost: duration of its forward pass relative to the
    teacher's; acceptance_auto: tokens per step with chains that stop when the next draft token is not worth its forward pass;
    acceptance_by_size: `acceptance` by number of draft tokens per step. They are None for texts that the model did not write itself.
    """

    num_texts: int
    num_rows: int
    agreement: float
    acceptance: list[float] | None
    pass_cost: float
    acceptance_auto: float | None
    acceptance_by_size: dict[str, float] | None = None


def train_draft(source: Source, out: Path, settings: DraftSettings, loop: LoopSettings, resume: bool = False) -> DraftRecord:
    """Train a draft model and save it in `out`. Raises BadInputError before the first step for unsuitable data or settings."""
    check_tensorboard(loop.tensorboard)
    run = Run.of(out, "draft", source, [settings, loop], resume)
    student = Student.of(source.model, settings.num_layers)
    rows = rows_of(source, run)
    check_rows(rows, student.head.base, source.data)
    run.begin()
    chosen, apart = split_texts(rows)
    task = DraftTask(rows, chosen, apart, student.live, student.head.frozen(None, processes().device), settings, loop.seed)
    num_steps = train(task, loop, out)
    draw_curves(out)
    student.round()
    made = {"num_texts": len(rows.ids), "num_tokens": rows.num_answer_tokens, "num_steps": num_steps, **asdict(loop)}
    made |= {"batch_size": settings.batch_rows, "data": asdict(rows.index.origin)}
    record = DraftRecord(student.head.base, {"num_layers": settings.num_layers}, made)
    student.save(out, record)
    worth = measure(task, rows, apart, pass_cost(source, out))
    record = replace(record, training={**made, "held_out": asdict(worth)})
    record.save(out)
    return record


def pass_cost(source: Source, folder: Path) -> float:
    """Duration of a forward pass of the model in `folder`, relative to its teacher's, on the target in use."""
    return open_llm(source).strategies.draft_model(str(folder), None).pass_cost


def measure(task: DraftTask, rows: Rows, texts: Array, cost: float) -> Worth:
    """Metrics of the student on the first of these texts, up to MAX_HELD_OUT_ROWS rows."""
    sizes = np.cumsum(rows.starts[texts + 1] - rows.answers[texts])
    texts = texts[: max(1, int((sizes <= MAX_HELD_OUT_ROWS).sum()))]
    agreement, chains = task.chains(texts)
    whole = np.concatenate([np.arange(rows.answers[text], rows.starts[text + 1]) for text in texts])
    lengths = automatic = by_size = None
    if are_own(rows, whole):
        lengths = [round(chains.acceptance(depth).mean_length, 4) for depth in range(1, MAX_DEPTH + 1)]
        by_size = {str(depth): length for depth, length in enumerate(lengths, 1)}
        automatic = round(chains.acceptance(MAX_DEPTH, DraftPrice(cost).min_confidence).mean_length, 4)
    return Worth(len(texts), len(whole), round(agreement, 4), lengths, round(cost, 4), automatic, by_size)


def tables(record: DraftRecord) -> list[Any]:
    """The metrics of a training run for people: agreement, and the expected acceptance length by depth of the chains."""
    from rich.table import Table

    worth = Worth(**record.training["held_out"])
    where = f"{worth.num_rows:,} rows of {worth.num_texts} held-out texts"
    first = f"Top token equals the teacher's in {worth.agreement:.1%} of {where}; a forward pass takes {worth.pass_cost:.2f} of its time."
    if worth.acceptance is None:
        return [first, NOT_OWN]
    table = Table(title="Expected speed with chains of draft tokens, if verifying them costs no extra time")
    for name in ("draft tokens per step", "tokens per step", "speedup over plain"):
        table.add_column(name, justify="right")
    for depth, length in enumerate(worth.acceptance, 1):
        table.add_row(str(depth), f"{length:.2f}", f"{length / (1 + depth * worth.pass_cost):.2f}")
    return [first, table, f"With automatic stop, up to {MAX_DEPTH} draft tokens per step: {worth.acceptance_auto:.2f} tokens per step."]
