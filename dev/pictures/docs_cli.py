"""Write docs/cli.md from the commands themselves. usage: python dev/pictures/docs_cli.py"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import typer.main

from outpace.cli import app

OUT = Path(__file__).parents[2] / "docs" / "cli.md"


def page() -> str:
    """The whole page: help text and options of every command."""
    parts = ["# Commands\n\nWritten by `python dev/pictures/docs_cli.py`; a test compares it with the commands.\n"]
    commands = all_commands(typer.main.get_command(app))
    for name in sorted(commands):
        rows = [_row(parameter) for parameter in commands[name].params if parameter.name != "help"]
        table = "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])
        parts.append(f"## outpace {name}\n\n{inspect.cleandoc(commands[name].help)}\n\n{table}\n")
    return "\n".join(parts)


def all_commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command of a group and of the groups in it, by its words on the shell; a group that runs by itself is one too."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        is_group = hasattr(command, "commands")
        if not is_group or command.invoke_without_command:
            found[f"{prefix}{name}"] = command
        if is_group:
            found |= all_commands(command, f"{prefix}{name} ")
    return found


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = f"`{parameter.name.upper()}`" if is_argument else ", ".join(f"`{option}`" for option in parameter.opts)
    flag = getattr(parameter, "is_flag", False)
    default = "required" if parameter.required else "" if parameter.default is None or flag else f"`{parameter.default}`"
    return f"| {names} | {default} | {getattr(parameter, 'help', '') or ''} |"


if __name__ == "__main__":
    OUT.write_text(page(), "utf-8")
