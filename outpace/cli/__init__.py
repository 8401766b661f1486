"""The command line: one thin function per command. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted. Heavy imports happen inside the commands.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from outpace import __version__
from outpace.cli.commands.bench import bench
from outpace.cli.commands.chat import chat
from outpace.cli.commands.config_command import config
from outpace.cli.commands.demo import demo
from outpace.cli.commands.drafters import drafters
from outpace.cli.commands.export import export
from outpace.cli.commands.generate import generate
from outpace.cli.commands.models import models, pull, remove
from outpace.cli.commands.plan import plan
from outpace.cli.commands.report import report
from outpace.cli.commands.serve import serve
from outpace.cli.commands.tune import calibrate, tune
from outpace.cli.commands.verify import verify
from outpace.cli.reporting import Command, Commands, open_streams, reported
from outpace.cli.train.train_blanks import blanks
from outpace.cli.train.train_draft import draft
from outpace.cli.train.train_eagle import eagle
from outpace.cli.train.train_medusa import medusa
from outpace.cli.train.train_recycling import recycling
from outpace.cli.user_config import default_map

COMMANDS = (demo, generate, chat, bench, report, verify, tune, plan, drafters, pull, calibrate, serve, export, config)
TRAINING = (medusa, blanks, eagle, draft, recycling)

app = typer.Typer(
    name="outpace",
    cls=Commands,
    help="Make a language model answer faster without changing one token of its answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in COMMANDS:
    app.command(cls=Command)(reported(command))

cache = typer.Typer(cls=Commands, invoke_without_command=True, rich_markup_mode="markdown")
cache.callback()(reported(models))
cache.command("rm", cls=Command)(reported(remove))
app.add_typer(cache, name="models")

training = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode="markdown")
for command in TRAINING:
    training.command(cls=Command)(reported(command))
app.add_typer(training, name="train", help="Train draft heads or a draft model for your model, on your texts.")


@app.callback(invoke_without_command=True)
@reported
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> None:
    """Make a language model answer faster without changing one token of its answer."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    context.default_map = default_map(context)


def main() -> None:
    """Entry point of the shell command."""
    open_streams()
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing OpenVINO would use the network, and time
    app()
