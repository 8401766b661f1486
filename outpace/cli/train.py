"""Commands that train helpers: train medusa."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads
from outpace.errors import OutpaceError


def medusa(
    data: Annotated[
        Path, typer.Option(help="JSON lines with prompts or whole texts, a plain text, or the `shards` folder of another run.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the heads and all that is kept on the way.")],
    model: Model = "default",
    generate: Annotated[bool, typer.Option("--generate", help="The model writes the answers to the prompts itself.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, whenever it was killed.")] = False,
    max_tokens: Annotated[int, typer.Option(min=2, help="Longest answer, in tokens.")] = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every row is seen.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 512,
    learning_rate: Annotated[float, typer.Option(min=0, help="The highest one, after warm-up.")] = 1e-3,
    num_heads: Annotated[int, typer.Option(min=1, max=16, help="Tokens guessed ahead.")] = 4,
    num_layers: Annotated[int, typer.Option(min=1, max=8, help="Blocks a head.")] = 1,
    num_draft_vocab: Annotated[
        int, typer.Option(min=0, help="Guess only so many tokens, those most frequent in the data; 0: all.")
    ] = 16384,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same heads on a CPU.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard.")] = False,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Train Medusa heads: small networks that guess the tokens after the next one. The model itself is not changed.

    Example: `outpace train medusa --data prompts.jsonl --generate --out heads`, then `outpace chat --drafter medusa:heads`
    """
    try:
        from outpace.training.loop import LoopSettings
        from outpace.training.medusa import MedusaSettings
        from outpace.training.run_medusa import tables, train_medusa
        from outpace.training.stages import Source
    except ModuleNotFoundError as error:
        raise OutpaceError(f"training needs the package {error.name}; run: pip install 'outpace[train]'") from error
    from rich.console import Console

    source = Source(model, data, generate, max_tokens, target, precision, threads)
    loop = LoopSettings(epochs, batch_size, learning_rate, seed=seed, tensorboard=tensorboard)
    helper = train_medusa(source, out, MedusaSettings(num_heads, num_layers, num_draft_vocab or None), loop, resume)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "base": asdict(helper.base), "settings": helper.settings, "training": helper.training}))
        return
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in tables(helper):
        console.print(table)
    console.print(f"The heads are in {out}; use them with --drafter medusa:{out}", soft_wrap=True)
