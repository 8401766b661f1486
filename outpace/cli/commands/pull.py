"""The command `outpace pull`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.options import AsJson
from outpace.errors import BadInputError


def pull(
    model: Annotated[str, typer.Argument(metavar="NAME", help="A short name that `outpace models` lists, or a hub id such as org/name.")],
    as_json: AsJson = False,
) -> None:
    """Download a model into the cache, so that later commands need no network. An interrupted download resumes.

    Example: `outpace pull coder-0.5b`
    """
    from outpace.cli.commands.models import size
    from outpace.models.find import locate
    from outpace.models.store import num_bytes

    if Path(model).exists():
        raise BadInputError(f"{model} is a path here; there is nothing to fetch")
    source = locate(model)
    total = source.path.stat().st_size if source.path.is_file() else num_bytes(source.path)
    if as_json:
        typer.echo(json.dumps({"name": model, "title": source.name, "path": str(source.path), "num_bytes": total}))
    else:
        typer.echo(f"{model} is here: {size(total)} in {source.path}")
