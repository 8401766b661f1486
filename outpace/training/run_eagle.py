"""`outpace train eagle`: from data to a folder with a feature-level head, and what it is worth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outpace.core import Array
from outpace.helpers.format import Helper
from outpace.training.base_model import ModelParts, frequent_tokens
from outpace.training.data import held_out
from outpace.training.eagle import EagleSettings, EagleTask
from outpace.training.loop import LoopSettings, train
from outpace.training.record import check_tensorboard, draw_curves
from outpace.training.stages import Run, Source, check_rows, rows_of

MEASURED_TEXTS = 64  # held-out ones, for the accuracies


@dataclass(frozen=True)
class Worth:
    """What a head is worth on held-out texts: accuracies [rounds][10], top-1 to top-10 when it guesses 1, 2, … tokens ahead."""

    num_texts: int
    num_rows: int
    accuracies: list[list[float]]


def train_eagle(source: Source, out: Path, settings: EagleSettings, loop: LoopSettings, resume: bool = False) -> Helper:
    """Train a head and save it in `out`. Raises BadInputError before the first step for whatever does not fit."""
    check_tensorboard(loop.tensorboard)
    run = Run.of(out, "eagle", source, [settings, loop], resume)
    rows = rows_of(source, run)
    parts = ModelParts.of(source.model)
    check_rows(rows, parts.head.base, source.data)
    run.begin()
    apart = held_out(rows.ids)
    is_apart = np.array([name in apart for name in rows.ids])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocab_ids = frequent_tokens(rows, settings.num_draft_vocab)
    head = parts.head.frozen(vocab_ids, device)
    with torch.random.fork_rng():
        torch.manual_seed(loop.seed)
        task = EagleTask(rows, np.flatnonzero(~is_apart), np.flatnonzero(is_apart), parts, head, settings)
    num_steps = train(task, loop, out)
    draw_curves(out)
    sizes = {name: value for name, value in asdict(parts.sizes).items() if name != "hidden_size"}
    shape: dict[str, Any] = {**sizes, "num_draft_vocab": None if vocab_ids is None else len(vocab_ids), "temperatures": task.calibrate()}
    worth = measure(task, np.flatnonzero(is_apart)[:MEASURED_TEXTS])
    record = {"num_texts": len(rows.ids), "num_tokens": rows.num_answer_tokens, "num_steps": num_steps, **asdict(loop), **asdict(settings)}
    record |= {"held_out": asdict(worth), "data": asdict(rows.index.origin)}
    helper = Helper("eagle", parts.head.base, shape, task.tensors(), None, record)
    helper.save_pretrained(out)
    return helper


def measure(task: EagleTask, texts: Array) -> Worth:
    """What the head is worth on these texts."""
    ranks = task.guesses(texts)
    shares = [[round(float((found < top).mean()), 4) if len(found) else 0.0 for top in range(1, 11)] for found in ranks]
    return Worth(len(texts), len(ranks[0]), shares)


def tables(helper: Helper) -> list[Any]:
    """The figures of a training for people: how often the right token is among the first guesses."""
    from rich.table import Table

    worth = Worth(**helper.training["held_out"])
    table = Table(title=f"{worth.num_rows:,} rows of {worth.num_texts} held-out texts: is the right token among the first guesses?")
    table.add_column("tokens ahead")
    for top in (1, 2, 3, 5, 10):
        table.add_column(f"top {top}", justify="right")
    for number, shares in enumerate(worth.accuracies, 1):
        table.add_row(str(number), *(f"{shares[top - 1]:.1%}" for top in (1, 2, 3, 5, 10)))
    return [table]
