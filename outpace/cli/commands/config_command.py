"""The command `outpace config`."""

from __future__ import annotations

import json
import os

import typer

from outpace.cli.options.option_types import AsJson
from outpace.cli.user_config import EXAMPLE, config_path, default_map, settings_of

VARIABLES = ("OUTPACE_CONFIG", "OUTPACE_MODEL", "OUTPACE_HOME")


def config(context: typer.Context, as_json: AsJson = False) -> None:
    """Show your settings file, what it sets, and the environment variables that are set.

    Example: `outpace config`
    """
    from outpace.models.catalog import default_name
    from outpace.models.store import home

    path = config_path()
    found = list(settings_of(default_map(context.find_root())))
    variables = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if as_json:
        settings = [{"command": command, "option": option, "value": value} for command, option, value in found]
        facts = {"path": str(path), "exists": path.is_file(), "settings": settings, "environment": variables}
        typer.echo(json.dumps({**facts, "default_model": default_name(), "cache": str(home())}))
        return
    typer.echo(f"settings: {path}" if path.is_file() else f"settings: {path} (not there yet; it may hold, for example:)")
    if not path.is_file():
        typer.echo("\n" + "".join(f"  {line}\n" for line in EXAMPLE.splitlines()))
    commands: dict[str, list[str]] = {}
    for command, option, value in found:
        commands.setdefault(f"{option.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}", []).append(command)
    for setting, names in commands.items():
        typer.echo(f"  {setting}  ({', '.join(names)})")
    typer.echo(f"default model: {default_name()}")
    typer.echo(f"cache: {home()}")
    for name, text in variables.items():
        typer.echo(f"environment: {name}={text}")
