"""The command `outpace train recycling`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads
from outpace.cli.reporting import needing

if TYPE_CHECKING:
    pass
from outpace.cli.train.shared import Data, Generate, MaxTokens, Out, Resume, show


def recycling(
    data: Data,
    out: Out,
    model: Model = "default",
    generate: Generate = False,
    resume: Resume = False,
    max_tokens: MaxTokens = 256,
    pairs: Annotated[int, typer.Option(min=1, max=1 << 22, help="Pairs of tokens kept, those most visited.")] = 65_536,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Make a table of what usually follows a token or a pair of tokens, so that recycling guesses well from the first step.

    Example: `outpace train recycling --data prompts.jsonl --generate --out table`, then `outpace chat --drafter recycling:table=table`
    """
    with needing("train", "training"):
        from outpace.training.recycling.run import tables, train_recycling
        from outpace.training.recycling.table import RecyclingSettings
        from outpace.training.stages import Source
    source = Source(model, data, generate, max_tokens, target, precision, threads)
    helper = train_recycling(source, out, RecyclingSettings(pairs), resume)
    show(helper, out, tables(helper), f"The table is in {out}; use it with --drafter recycling:table={out}", as_json)
