"""`outpace train recycling`: from data to a folder with a successor table and its metrics."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from outpace.heads.format import DraftHeads
from outpace.models.find import locate
from outpace.models.tokenizer import Tokenizer
from outpace.models.transformers_io import load_tokenizer
from outpace.training.base_model import LMHeadWeights
from outpace.training.data.texts import held_out
from outpace.training.recycling.table import Hits, RecyclingSettings, row_keys, successors_of
from outpace.training.stages import Run, Source, check_rows, rows_of


def train_recycling(source: Source, out: Path, settings: RecyclingSettings, resume: bool = False) -> DraftHeads:
    """Build a table and save it in `out`. Raises BadInputError beforehand for unsuitable data or settings."""
    run = Run.of(out, "recycling", source, [settings], resume)
    rows = rows_of(source, run)
    base = LMHeadWeights.of(source.model).base
    check_rows(rows, base, source.data)
    run.begin()
    apart = held_out(rows.ids)
    is_answer = np.arange(len(rows)) >= np.repeat(rows.answers, np.diff(rows.starts))
    is_apart = np.repeat([name in apart for name in rows.ids], np.diff(rows.starts))
    is_counted, is_apart = is_answer & ~is_apart, is_answer & is_apart
    singles, pairs = row_keys(rows)
    table = successors_of(rows, np.where(is_counted, singles, -1), np.where(is_counted, pairs, -1), settings.num_pairs)
    hits = {name: asdict(Hits.of(table, keys[is_apart], rows.tokens[is_apart])) for name, keys in (("singles", singles), ("pairs", pairs))}
    record = {"num_texts": len(rows.ids), "num_tokens": rows.num_answer_tokens, "num_rows": int(is_counted.sum())}
    held = {"num_texts": len(apart), "num_rows": int(is_apart.sum()), **hits}
    vocabulary = Tokenizer.from_transformers(load_tokenizer(locate(source.model).path)).mark
    training = {**record, **asdict(settings), "held_out": held, "data": asdict(rows.index.origin)}
    heads = table.to_draft_heads(base, training, vocabulary)
    heads.save_pretrained(out)
    return heads


def tables(heads: DraftHeads) -> list[Any]:
    """The metrics of a table for people: its size, and how often it has the next token of held-out texts."""
    from rich.table import Table

    training, settings = heads.training, heads.settings
    held = training["held_out"]
    table = Table(title=f"Built from {training['num_rows']:,} rows, measured on {held['num_rows']:,} held-out rows")
    for name in ("after", "entries", "known", "of these: top 1", f"top {settings['width']}"):
        table.add_column(name, justify="left" if name == "after" else "right")
    for name, label in (("singles", "a token"), ("pairs", "a pair")):
        shares = (f"{held[name][share]:.1%}" for share in ("known", "top_1", "top_all"))
        table.add_row(label, f"{settings[f'num_{name}']:,}", *shares)
    return [table]
