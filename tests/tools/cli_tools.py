"""Commands run in this process, and what a failed one must look like."""

from __future__ import annotations

import sys
from typing import Any

from typer.testing import CliRunner

from outpace import cli

OUTPACE = [sys.executable, "-m", "outpace"]


def call(*arguments: object, stdin: str | bytes = "") -> Any:
    """Run a command in this process; the result has exit_code, stdout and stderr."""
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], input=stdin)


def one_error_line(result: Any, exit_code: int = 2) -> str:
    """The message, when the command ended as it should: nothing on stdout, one line on stderr."""
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def words(text: str) -> str:
    return " ".join(text.split())


def checks_of(document: dict[str, Any]) -> dict[str, bool]:
    return {check["name"]: check["passed"] for check in document["checks"]}


CONTROLS = ["negative control caught, temperature 0", "negative control caught, temperature 0.8", "negative control caught (toy model)"]


def train(kind: str, *words: object) -> Any:
    """Run a training command on target hf."""
    return call("train", kind, "--target", "hf", "--precision", "f32", *words)
