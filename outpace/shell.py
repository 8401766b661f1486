"""What every command shares: one line on stderr and the right exit code for whatever goes wrong."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from outpace.errors import BadInputError, OutpaceError


class Commands(TyperGroup):
    """A wrong option is one line on stderr, as every other error."""

    def main(self, *args: Any, **extra: Any) -> Any:
        if extra.get("standalone_mode") is False:
            return super().main(*args, **extra)
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except typer.Abort:
            sys.exit(130)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message(), err=True)
            else:
                typer.secho(f"error: {' '.join(error.format_message().split())}", err=True, fg="red")
            sys.exit(getattr(error, "exit_code", 2))
        sys.exit(code if isinstance(code, int) else 0)


def read_config(config: Path) -> Any:
    """The JSON of a file that `outpace tune` wrote. Raises BadInputError."""
    try:
        return json.loads(config.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(f"cannot read {config}: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"{config} is not JSON: {error}") from error


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can cause into one line and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
        try:
            command(*args, **options)
        except OutpaceError as error:
            typer.secho(f"error: {error}", err=True, fg="red")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.secho("interrupted", err=True)
            raise typer.Exit(130) from error
        except BrokenPipeError as error:  # the reader of our output went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error
        except OSError as error:
            typer.secho(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", err=True, fg="red")
            raise typer.Exit(1) from error

    return run
