"""Error reporting of all commands: one line on stderr and an exit code."""

from __future__ import annotations

import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from outpace.errors import OutpaceError

ALONE = {"--server": "here"}  # option -> its value if none follows


class Commands(TyperGroup):
    """A group of commands that reports a wrong option as one line on stderr, like every other error."""

    def main(self, *args: Any, **extra: Any) -> Any:
        if extra.get("standalone_mode") is False:
            return super().main(*args, **extra)
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except typer.Abort:
            sys.exit(130)
        except OutpaceError as error:  # of an option's value, before the command runs
            typer.secho(f"error: {error}", err=True, fg="red")
            sys.exit(error.exit_code)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message(), err=True)
            else:
                typer.secho(f"error: {' '.join(error.format_message().split())}", err=True, fg="red")
            sys.exit(getattr(error, "exit_code", 2))
        sys.exit(code if isinstance(code, int) else 0)


class Command(TyperCommand):
    """A command whose options in ALONE may be given without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place in reversed(range(len(args))):
            if args[place] in ALONE and (place + 1 == len(args) or args[place + 1].startswith("-")):
                args.insert(place + 1, ALONE[args[place]])
        return super().parse_args(ctx, args)


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Wrap the imports of an optional part: a missing package raises OutpaceError with the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise OutpaceError(f"{what} needs the package {error.name}; run: pip install 'outpace[{extra}]'") from error


def open_streams() -> None:
    """Give stdin, stdout and stderr a place if the caller has closed them, and let them show every text: a terminal that cannot encode a
    character prints a question mark."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Let what is still to be written to stdout go nowhere: at its end Python would try once more, and fail with another message."""
    with suppress(OSError):
        number = sys.stdout.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: errors that a user can cause become one line on stderr and an exit code."""

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
        except BrokenPipeError as error:  # the reader of stdout has closed it
            _drop_stdout()
            raise typer.Exit(1) from error
        except OSError as error:
            if error.filename is None:  # of a stream: stdout may be a file on a full disk
                _drop_stdout()
            typer.secho(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", err=True, fg="red")
            raise typer.Exit(1) from error

    return run
