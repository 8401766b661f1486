"""The command `outpace demo`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from outpace.cli.options import (
    Config,
    Drafter,
    MaxTokens,
    Model,
    Precision,
    Target,
    Threads,
    load,
)
from outpace.errors import OutpaceError


def demo(
    max_tokens: MaxTokens = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    model: Model = "default",
    drafter: Drafter = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Summarise a document plainly and speculatively, side by side.

    Example: `outpace demo --max-tokens 100`
    """
    from rich.console import Console

    from outpace.cli import side_by_side

    console = Console(stderr=as_json)
    plain, fast = side_by_side.run(load(model, drafter, target, precision, threads, config), max_tokens, console)
    if as_json:
        typer.echo(json.dumps(side_by_side.summary(plain, fast), ensure_ascii=False))
    else:
        console.print(side_by_side.render(plain, fast))
    if plain.token_ids != fast.token_ids:
        raise OutpaceError("the two answers differ; `outpace verify` says more")
