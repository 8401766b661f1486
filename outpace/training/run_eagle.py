"""`outpace train eagle`: from data to a folder with a feature-level head, and what it is worth."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outpace.core import Array
from outpace.drafters import create_drafter
from outpace.drafters.base import DrafterContext
from outpace.helpers.format import Helper
from outpace.llm import LLM
from outpace.training.base_model import ModelParts, frequent_tokens
from outpace.training.data import held_out
from outpace.training.eagle import EagleSettings, EagleTask
from outpace.training.loop import LoopSettings, train
from outpace.training.record import check_tensorboard, draw_curves
from outpace.training.replay import replay
from outpace.training.shards import Rows
from outpace.training.stages import Run, Source, check_rows, rows_of

MEASURED_TEXTS = 64  # held-out ones
OWN_SHARE = 0.98  # of tokens that the model would have written itself, for a text to count as its own


@dataclass(frozen=True)
class Worth:
    """What a head is worth on held-out texts: accuracies [rounds][10], top-1 to top-10 when it guesses 1, 2, … tokens ahead, and the
    acceptance length in tokens a step of the drafter as it comes, None for texts that the model did not write itself."""

    num_texts: int
    num_rows: int
    accuracies: list[list[float]]
    acceptance: float | None = None


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
    texts = np.flatnonzero(is_apart)[:MEASURED_TEXTS]
    worth = measure(task, texts)
    record = {"num_texts": len(rows.ids), "num_tokens": rows.num_answer_tokens, "num_steps": num_steps, **asdict(loop), **asdict(settings)}
    helper = Helper("eagle", parts.head.base, shape, task.tensors(), None, {**record, "data": asdict(rows.index.origin)})
    with tempfile.TemporaryDirectory() as folder:
        helper.save_pretrained(Path(folder))
        worth = replace(worth, acceptance=acceptance(source, rows, texts, f"eagle:{folder}"))
    helper.training["held_out"] = asdict(worth)
    helper.save_pretrained(out)
    return helper


def measure(task: EagleTask, texts: Array) -> Worth:
    """What the head is worth on these texts."""
    ranks = task.guesses(texts)
    shares = [[round(float((found < top).mean()), 4) if len(found) else 0.0 for top in range(1, 11)] for found in ranks]
    return Worth(len(texts), len(ranks[0]), shares)


def acceptance(source: Source, rows: Rows, texts: Array, drafter: str) -> float | None:
    """Tokens a step that the model decodes these texts with; None for texts that it did not write itself."""
    whole = np.concatenate([np.arange(rows.answers[text], rows.starts[text + 1]) for text in texts])
    if (rows.best[whole] == rows.tokens[whole]).mean() < OWN_SHARE:
        return None
    llm = LLM(source.model, "none", target=source.target, precision=source.precision, threads=source.threads)
    built = create_drafter(drafter, DrafterContext(llm.target))
    return round(replay(llm.target, built, rows, texts.tolist(), built.num_draft_tokens).mean_length, 4)


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
    if worth.acceptance is None:
        return [table, "The texts are not the model's own answers (--generate), so they do not tell how many guesses it would keep."]
    return [table, f"Mean acceptance length to expect: {worth.acceptance:.2f} tokens a step"]
