"""Commands that train helpers: train medusa | recycling, and what the others in train_*.py share with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads
from outpace.shell import needing

if TYPE_CHECKING:
    from outpace.helpers.draft import DraftRecord
    from outpace.helpers.format import Helper


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


def medusa(
    data: Data,
    out: Out,
    model: Model = "default",
    generate: Generate = False,
    resume: Resume = False,
    max_tokens: MaxTokens = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every row is seen.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 512,
    learning_rate: LearningRate = 1e-3,
    num_heads: Annotated[int, typer.Option(min=1, max=16, help="Tokens guessed ahead.")] = 4,
    num_layers: Annotated[int, typer.Option(min=1, max=8, help="Blocks a head.")] = 1,
    num_draft_vocab: DraftVocab = 16384,
    lm_head: Annotated[
        Literal["shared", "own"], typer.Option(help="shared: the model's own; own: each head trains one, much larger on disk.")
    ] = "shared",
    start_from: StartFrom = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same heads on a CPU.")] = 0,
    tensorboard: TensorBoard = False,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Train Medusa heads: small networks that guess the tokens after the next one. The model itself is not changed.

    Example: `outpace train medusa --data prompts.jsonl --generate --out heads`, then `outpace chat --drafter medusa:heads`
    """
    with needing("train", "training"):
        from outpace.training.loop import LoopSettings
        from outpace.training.medusa_heads import MedusaSettings
        from outpace.training.run_medusa import tables, train_medusa
        from outpace.training.stages import Source
    source = Source(model, data, generate, max_tokens, target, precision, threads)
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard, start_from=start_from)
    shape = MedusaSettings(num_heads, num_layers, num_draft_vocab or None, lm_head)
    helper = train_medusa(source, out, shape, loop, resume)
    show(helper, out, tables(helper), f"The heads are in {out}; use them with --drafter medusa:{out}", as_json)


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
        from outpace.training.recycling import RecyclingSettings
        from outpace.training.run_recycling import tables, train_recycling
        from outpace.training.stages import Source
    source = Source(model, data, generate, max_tokens, target, precision, threads)
    helper = train_recycling(source, out, RecyclingSettings(pairs), resume)
    show(helper, out, tables(helper), f"The table is in {out}; use it with --drafter recycling:table={out}", as_json)


def show(helper: Helper | DraftRecord, out: Path, tables: Sequence[Any], advice: str, as_json: bool) -> None:
    """What a run has made: as one JSON document, or for people."""
    if as_json:
        typer.echo(json.dumps({"out": str(out), "base": asdict(helper.base), "settings": helper.settings, "training": helper.training}))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in tables:
        console.print(table)
    console.print(advice, soft_wrap=True)
