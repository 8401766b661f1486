"""Commands that list: drafters, models."""

from __future__ import annotations

import json

import typer

from outpace.cli.options import AsJson


def drafters(as_json: AsJson = False) -> None:
    """List the ways of guessing and their options.

    Example: `outpace drafters`
    """
    from rich.console import Console

    from outpace.drafters import catalogue, usage

    entries = catalogue()
    if as_json:
        facts = [{"name": name, "usage": usage(name), "description": text, "options": options} for name, text, options in entries]
        typer.echo(json.dumps(facts))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, text, options in entries:
        console.print(f"[bold]{usage(name)}[/]  {text}")
        if options:
            console.print("    " + "  ".join(f"{key}={value}" for key, value in options.items()), style="dim")


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
