"""The command `outpace drafters`."""

from __future__ import annotations

import json

import typer

from outpace.cli.options.option_types import AsJson


def drafters(as_json: AsJson = False) -> None:
    """List the drafters and their options.

    Example: `outpace drafters`
    """
    from outpace.cli.show import prose
    from outpace.drafters.spec import catalogue, usage

    entries = catalogue()
    if as_json:
        facts = [{"name": name, "usage": usage(name), "description": text, "options": options} for name, text, options in entries]
        typer.echo(json.dumps(facts))
        return
    console = prose()
    for name, text, options in entries:
        console.print(f"[bold]{usage(name)}[/]  {text}")
        if options:
            console.print("    " + "  ".join(f"{key}={value}" for key, value in options.items()), style="dim")
