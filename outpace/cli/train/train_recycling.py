"""The command `outpace train recycling`."""

from __future__ import annotations

from typing import Annotated

import typer

from outpace.cli.reporting import needing
from outpace.cli.train.shared import TrainingOptions, training_command


@training_command()
def recycling(
    options: TrainingOptions,
    pairs: Annotated[int, typer.Option(min=1, max=1 << 22, help="Number of most visited pairs of tokens to keep.")] = 65_536,
) -> None:
    """Build a table of the usual successors of tokens and pairs of tokens, so that recycling drafts well from the first step.

    Example: `outpace train recycling --data prompts.jsonl --generate --out table`, then `outpace chat --drafter recycling:table=table`
    """
    with needing("train", "training"):
        from outpace.training.recycling.run import tables, train_recycling
        from outpace.training.recycling.table import RecyclingSettings
    heads = train_recycling(options.source, options.out, RecyclingSettings(pairs), options.resume)
    options.show(heads, tables(heads), "The table is", f"recycling:table={options.out}")
