"""The command that takes helpers to other engines: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.reporting import needing


def export(
    engine: Annotated[str, typer.Argument(help="vllm or tgi.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the Medusa heads or, for vllm, of the draft model.")],
    out: Annotated[Path, typer.Argument(help="New folder in the engine's layout.")],
    model: Annotated[str | None, typer.Option(help="The model they are for, where they do not name it or it is elsewhere.")] = None,
) -> None:
    """Write a trained helper in the layout of another engine, and print the command that serves it.

    Example: `outpace export vllm heads heads-vllm`
    """
    with needing("convert", "exporting"):
        from outpace.export import exporter

        command = exporter(engine)(folder, out, model)
    typer.echo(command)
