"""`outpace train medusa`: from data to a folder with heads, their draft tree and their metrics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.heads.format import DraftHeads
from outpace.training.acceptance import accuracies, best_tree, walk, with_likeliest, with_tree
from outpace.training.base_model import LMHeadWeights
from outpace.training.data.shards import Rows
from outpace.training.held_out import NOT_OWN, accuracy_table, are_own
from outpace.training.loop import LoopSettings, train
from outpace.training.medusa.module import MedusaSettings
from outpace.training.medusa.task import MedusaTask
from outpace.training.processes import processes
from outpace.training.record import check_tensorboard, draw_curves
from outpace.training.stages import Run, Source, check_rows, rows_of, split
from outpace.training.start import Start

TREE_NODES = 64  # stored in the file; the drafter uses as many as are worth verifying
DRAFT_NODES = 10  # draft tokens per step for the expected acceptance length
DRAFT_SIZES = (1, 2, 4, 6, 10, 16, 24)  # for the expected speedup
DRAFT_THRESHOLD = 0.02  # the default of the medusa drafter
MAX_HELD_OUT_ROWS = 16_384


@dataclass(frozen=True)
class Worth:
    """Metrics of heads on held-out texts. accuracies [K][10]: top-1 to top-10; acceptance lengths in tokens per step, None for texts that
    the model did not write itself; acceptance_by_size: those of the likeliest paths, by number of draft tokens per step."""

    num_texts: int
    num_rows: int
    accuracies: list[list[float]]
    acceptance_fixed: float | None
    acceptance_best: float | None
    acceptance_by_size: dict[str, float] | None = None


def train_medusa(source: Source, out: Path, settings: MedusaSettings, loop: LoopSettings, resume: bool = False) -> DraftHeads:
    """Train heads and save them in `out`. Raises BadInputError before the first step for unsuitable data or settings."""
    check_tensorboard(loop.tensorboard)
    run = Run.of(out, "medusa", source, [settings, loop], resume)
    rows = rows_of(source, run)
    head = LMHeadWeights.of(source.model)
    check_rows(rows, head.base, source.data)
    start = Start.of(loop.start_from, "medusa", head.base)
    run.begin()
    chosen, held_out = split(rows)
    vocab_ids = start.vocab_ids(rows, settings.num_draft_vocab)
    task = MedusaTask(rows, chosen, np.concatenate(held_out), head.frozen(vocab_ids, processes().device), settings)
    start.load_into(task.module)
    num_steps = train(task, loop, out)
    draw_curves(out)
    temperatures = task.calibrate()
    tree, worth = measure(task, rows, held_out)
    size = None if vocab_ids is None else len(vocab_ids)
    shape: dict[str, Any] = {
        "num_heads": settings.num_heads,
        "num_layers": settings.num_layers,
        "num_draft_vocab": size,
        "temperatures": temperatures,
    }
    record = {
        "num_texts": len(rows.ids),
        "num_tokens": rows.num_answer_tokens,
        "num_steps": num_steps,
        **asdict(loop),
        **start.record,
        "held_out": asdict(worth),
    }
    heads = DraftHeads("medusa", head.base, shape, task.tensors(), tree, {**record, "data": asdict(rows.index.origin)})
    heads.save_pretrained(out)
    return heads


def measure(task: MedusaTask, rows: Rows, held_out: Sequence[Array]) -> tuple[list[list[int]], Worth]:
    """(the calibrated tree, metrics of the heads) on the first held-out texts, up to MAX_HELD_OUT_ROWS rows."""
    ends = np.cumsum([len(text) for text in held_out])
    texts = held_out[: max(1, int((ends <= MAX_HELD_OUT_ROWS).sum()))]
    whole = np.concatenate(texts)
    ranks, confidences = task.predictions(whole)
    tree = best_tree(ranks, TREE_NODES)
    starts = [0, *itertools.accumulate(len(text) for text in texts)]
    fixed = best = sizes = None
    if are_own(rows, whole):
        fixed = round(walk(starts, with_tree(ranks, tree[:DRAFT_NODES])).mean_length, 4)
        likeliest = {size: walk(starts, with_likeliest(ranks, confidences, size, DRAFT_THRESHOLD)).mean_length for size in DRAFT_SIZES}
        sizes = {str(size): round(length, 4) for size, length in likeliest.items()}
        best = sizes[str(DRAFT_NODES)]
    shares = [[round(share, 4) for share in head] for head in accuracies(ranks)]
    return tree, Worth(len(texts), len(whole), shares, fixed, best, sizes)


def tables(heads: DraftHeads) -> list[Any]:
    """The metrics of a training run for people: accuracies of each head, and the expected acceptance length."""
    worth = Worth(**heads.training["held_out"])
    table = accuracy_table(f"{worth.num_rows:,} rows of {worth.num_texts}", "head", worth.accuracies)
    if worth.acceptance_best is None:
        return [table, NOT_OWN]
    lengths = f"{worth.acceptance_best:.2f} tokens per step, with the fixed tree {worth.acceptance_fixed:.2f}"
    return [table, f"Expected mean acceptance length, {DRAFT_NODES} draft tokens per step: {lengths}"]
