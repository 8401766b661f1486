"""The command `outpace models`."""

from __future__ import annotations

import json

import typer

from outpace.cli.options import AsJson


def models(as_json: AsJson = False) -> None:
    """List the models in the cache, and what else --model takes.

    Example: `outpace models`
    """
    from outpace.models.store import home, listing

    entries = listing()
    if as_json:
        typer.echo(json.dumps({"home": str(home()), "entries": entries}))
        return
    typer.echo(f"cache: {home()}")
    for entry in entries:
        typer.echo(f"  {entry['megabytes']:>8.1f} MB  {entry['name']}")
    typer.echo("--model takes: default (SmolLM2-135M-Instruct), a hub id such as org/name, a model folder, or a .gguf file")
