"""Write docs/cli.md from the help of the commands. usage: python dev/pictures/docs_cli.py"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import typer.main

from outpace.cli import app

OUT = Path(__file__).parents[2] / "docs" / "cli.md"


def page() -> str:
    """The page: help text and options of every command."""
    parts = ["# Commands\n\nWritten by `python dev/pictures/docs_cli.py`; a test compares it with the commands.\n"]
    commands = all_commands(typer.main.get_command(app))
    for name in sorted(commands):
        rows = [_row(parameter) for parameter in commands[name].params if parameter.name != "help"]
        table = "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])
        parts.append(f"## outpace {name}\n\n{inspect.cleandoc(commands[name].help)}\n\n{table}\n")
    return "\n".join(parts)


def all_commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """All commands of a group and its subgroups, by their names on the command line."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        is_group = hasattr(command, "commands")
        found |= all_commands(command, f"{prefix}{name} ") if is_group else {f"{prefix}{name}": command}
    return found


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = f"`{parameter.name.upper()}`" if is_argument else ", ".join(f"`{option}`" for option in parameter.opts)
    flag = getattr(parameter, "is_flag", False)
    default = "required" if parameter.required else "" if parameter.default is None or flag else f"`{parameter.default}`"
    return f"| {names} | {default} | {getattr(parameter, 'help', '') or ''} |"


if __name__ == "__main__":
    OUT.write_text(page(), "utf-8")
