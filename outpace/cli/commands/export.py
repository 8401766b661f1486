"""The command `outpace export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.reporting import needing


def export(
    engine: Annotated[str, typer.Argument(help="Engine to export to: vllm or tgi.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of Medusa heads or, for vllm, of an EAGLE head or a draft model.")],
    out: Annotated[Path, typer.Argument(help="New folder to write, in the engine's layout.")],
    model: Annotated[str | None, typer.Option(help="Model they were trained for. Default: the one named in the folder.")] = None,
) -> None:
    """Export trained heads or a draft model to the layout of another engine, and print the command that serves them.

    Example: `outpace export vllm heads heads-vllm`
    """
    with needing("convert", "exporting"):
        from outpace.export import exporter
        from outpace.export.folder import check_unused

        run = exporter(engine)
    check_unused(out.absolute())  # before the model is loaded
    command = run(folder, out, model)
    typer.echo(command)
