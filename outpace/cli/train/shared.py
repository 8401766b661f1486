"""What the commands `outpace train ...` share: options, and how a result is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from outpace.heads.draft_record import DraftRecord
    from outpace.heads.format import DraftHeads


Data = Annotated[Path, typer.Option(help="JSON lines with prompts or whole texts, a plain text, or the `shards` folder of another run.")]
Out = Annotated[Path, typer.Option(help="Folder for the helper and all that is kept on the way.")]
Generate = Annotated[bool, typer.Option("--generate", help="The model writes the answers to the prompts itself.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, whenever it was killed.")]
MaxTokens = Annotated[int, typer.Option(min=2, help="Longest answer, in tokens.")]
LearningRate = Annotated[float, typer.Option(min=0, help="The highest one, after warm-up.")]
DraftVocab = Annotated[int, typer.Option(min=0, help="Guess only so many tokens, those most frequent in the data; 0: all.")]
StartFrom = Annotated[
    str | None,
    typer.Option(help="Go on from the helper in this folder; `shipped`: from the one that comes with outpace.", metavar="FOLDER"),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard.")]


def show(helper: DraftHeads | DraftRecord, out: Path, tables: Sequence[Any], advice: str, as_json: bool) -> None:
    """What a run has made: as one JSON document, or for people."""
    if as_json:
        typer.echo(json.dumps({"out": str(out), "base": asdict(helper.base), "settings": helper.settings, "training": helper.training}))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in tables:
        console.print(table)
    console.print(advice, soft_wrap=True)
