"""The parts that the commands `outpace train ...` share: options, and how a result is shown."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from outpace.cli.options import AsJson, Model, Precision, Target, Threads

if TYPE_CHECKING:
    from outpace.heads.draft_record import DraftRecord
    from outpace.heads.format import DraftHeads
    from outpace.training.stages import Source


Data = Annotated[Path, typer.Option(help="JSON lines with prompts or whole texts, a plain text, or the `shards` folder of another run.")]
Texts = Annotated[Path, typer.Option(help="JSON lines with prompts or whole texts, or a plain text.")]
LearningRate = Annotated[float, typer.Option(min=0, help="Peak learning rate, reached after warm-up.")]
DraftVocab = Annotated[int, typer.Option(min=0, help="Number of most frequent tokens that can be predicted; 0: all.")]
StartFrom = Annotated[
    str | None,
    typer.Option(help="Continue from the heads in this folder; `shipped`: from those that come with outpace.", metavar="FOLDER"),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard.")]


@dataclass(frozen=True)
class TrainingOptions:
    """The options of every training command."""

    data: Data
    out: Annotated[Path, typer.Option(help="Folder for the result and all intermediate files.")]
    model: Model = "default"
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write the answers to the prompts.")] = False
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False
    max_tokens: Annotated[int, typer.Option(min=2, help="Maximum tokens of an answer.")] = 256
    as_json: AsJson = False
    target: Target = "auto"
    precision: Precision = "auto"
    threads: Threads = None

    @property
    def source(self) -> Source:
        """The model and the data to train with."""
        from outpace.training.stages import Source

        return Source(self.model, self.data, self.generate, self.max_tokens, self.target, self.precision, self.threads)

    def show(self, result: DraftHeads | DraftRecord, tables: Sequence[Any], advice: str) -> None:
        """Print the result of a run, as one JSON document or as tables and advice."""
        if self.as_json:
            facts = {"base": asdict(result.base), "settings": result.settings, "training": result.training}
            typer.echo(json.dumps({"out": str(self.out), **facts}))
            return
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        for table in tables:
            console.print(table)
        console.print(advice, soft_wrap=True)


def training_command(data: Any = Data) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose first parameter is a TrainingOptions: on the command line, the fields of that class take its place.

    Those up to `max_tokens` come before the command's own options, the others after them. `data` is the annotation of --data.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = {**get_type_hints(TrainingOptions, include_extras=True), "data": data}
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(TrainingOptions)
        ]
        hints |= get_type_hints(command, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]) for parameter in own]
        middle = 1 + [parameter.name for parameter in shared].index("max_tokens")
        parameters = [*shared[:middle], *own, *shared[middle:]]

        @functools.wraps(command)
        def run(**options: Any) -> None:
            given = {parameter.name: options.pop(parameter.name) for parameter in shared}
            command(TrainingOptions(**given), **options)

        run.__dict__["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
