"""`outpace train eagle`: from data to a folder with a feature-level head and its metrics."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outpace.arrays import Array
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.heads.format import DraftHeads
from outpace.training.acceptance import accuracies
from outpace.training.base_model import ModelParts
from outpace.training.data.shards import Rows
from outpace.training.eagle.task import EagleSettings, EagleTask
from outpace.training.held_out import NOT_OWN, accuracy_table, are_own
from outpace.training.loop import LoopSettings, train
from outpace.training.processes import processes
from outpace.training.record import check_tensorboard, draw_curves
from outpace.training.replay import replay
from outpace.training.stages import Run, Source, check_rows, open_llm, rows_of, split_texts
from outpace.training.start import Start

MEASURED_TEXTS = 64  # held-out texts to measure with
DRAFT_SIZES, SIZE_TEXTS = (1, 2, 4, 6, 16), 16  # draft tokens per step for the expected speedup, beside the default, and texts for each


@dataclass(frozen=True)
class Worth:
    """Metrics of a head on held-out texts: accuracies [rounds][10], top-1 to top-10 at 1, 2, … tokens ahead, and the acceptance length of
    the drafter with default settings, in tokens per step; None for texts that the model did not write itself. acceptance_by_size: by
    number of draft tokens per step."""

    num_texts: int
    num_rows: int
    accuracies: list[list[float]]
    acceptance: float | None = None
    acceptance_by_size: dict[str, float] | None = None


def train_eagle(source: Source, out: Path, settings: EagleSettings, loop: LoopSettings, resume: bool = False) -> DraftHeads:
    """Train a head and save it in `out`. Raises BadInputError before the first step for unsuitable data or settings."""
    check_tensorboard(loop.tensorboard)
    run = Run.of(out, "eagle", source, [settings, loop], resume)
    rows = rows_of(source, run)
    parts = ModelParts.of(source.model)
    check_rows(rows, parts.head.base, source.data)
    start = Start.of(loop.start_from, "eagle", parts.head.base)
    run.begin()
    chosen, apart = split_texts(rows)
    vocab_ids = start.vocab_ids(rows, settings.num_draft_vocab)
    head = parts.head.frozen(vocab_ids, processes().device)
    with torch.random.fork_rng():
        torch.manual_seed(loop.seed)
        task = EagleTask(rows, chosen, apart, parts, head, settings)
    start.load_into(task.module)
    num_steps = train(task, loop, out)
    draw_curves(out)
    sizes = {name: value for name, value in asdict(parts.sizes).items() if name != "hidden_size"}
    shape: dict[str, Any] = {**sizes, "num_draft_vocab": None if vocab_ids is None else len(vocab_ids), "temperatures": task.calibrate()}
    texts = apart[:MEASURED_TEXTS]
    worth = measure(task, texts)
    record = {"num_texts": len(rows.ids), "num_tokens": rows.num_answer_tokens, "num_steps": num_steps, **asdict(loop), **asdict(settings)}
    heads = DraftHeads("eagle", parts.head.base, shape, task.tensors(), None, {**record, **start.record, "data": asdict(rows.index.origin)})
    with tempfile.TemporaryDirectory() as folder:
        heads.save_pretrained(Path(folder))
        worth = replace(worth, **acceptances(source, rows, texts, f"eagle:{folder}"))
    heads.training["held_out"] = asdict(worth)
    heads.save_pretrained(out)
    return heads


def measure(task: EagleTask, texts: Array) -> Worth:
    """Metrics of the head on these texts."""
    ranks = task.ranks(texts)
    shares = [[round(share, 4) for share in accuracies(found[:, None])[0]] for found in ranks]
    return Worth(len(texts), len(ranks[0]), shares)


def acceptances(source: Source, rows: Rows, texts: Array, drafter: str) -> dict[str, Any]:
    """The acceptance lengths of Worth for a drafter on these texts; none for texts that the model did not write itself."""
    whole = np.concatenate([np.arange(rows.answers[text], rows.starts[text + 1]) for text in texts])
    if not are_own(rows, whole):
        return {}
    llm = open_llm(source)
    built = create_drafter(drafter, DrafterContext(llm.target))

    def length(size: int, some: Array) -> float:
        return round(replay(llm.target, built, rows, some.tolist(), size).mean_length, 4)

    found = length(built.num_draft_tokens, texts)
    sizes = {size: length(size, texts[:SIZE_TEXTS]) for size in DRAFT_SIZES} | {built.num_draft_tokens: found}
    return {"acceptance": found, "acceptance_by_size": {str(size): sizes[size] for size in sorted(sizes)}}


def tables(heads: DraftHeads) -> list[Any]:
    """The metrics of a training run for people: accuracies by distance, and the expected acceptance length."""
    worth = Worth(**heads.training["held_out"])
    table = accuracy_table(f"{worth.num_rows:,} rows of {worth.num_texts}", "tokens ahead", worth.accuracies)
    if worth.acceptance is None:
        return [table, NOT_OWN]
    return [table, f"Expected mean acceptance length: {worth.acceptance:.2f} tokens per step"]
