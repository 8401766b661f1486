"""The parts that the commands `outpace train ...` share: options, and how a result is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.options.loading import ModelChoice
from outpace.cli.options.option_types import AsJson
from outpace.cli.options.spread import own_parameters, parameters_of, signed

if TYPE_CHECKING:
    from outpace.heads.draft_record import DraftRecord
    from outpace.heads.format import DraftHeads
    from outpace.training.expected import Expected
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


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ModelChoice):
    """The options of every training command."""

    data: Data
    out: Annotated[Path, typer.Option(help="Folder for the result and all intermediate files.")]
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write the answers to the prompts.")] = False
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False
    max_tokens: Annotated[int, typer.Option(min=2, help="Maximum tokens of an answer.")] = 256
    as_json: AsJson = False

    @property
    def source(self) -> Source:
        """The model and the data to train with."""
        from outpace.training.stages import Source

        return Source(self.model, self.data, self.generate, self.max_tokens, self.target, self.precision, self.threads)

    def show(self, result: DraftHeads | DraftRecord, tables: Sequence[Any], what: str, drafter: str, num_lookahead: int = 0) -> None:
        """Print the result of a run, as one JSON document or as tables. `what` is the beginning of the sentence that says where it is,
        `drafter` the spec that uses it; the speedup to expect on this machine comes last, where the acceptance is known."""
        gain = self._expected(result, drafter, num_lookahead)
        if self.as_json:
            facts = {"base": asdict(result.base), "settings": result.settings, "training": result.training}
            typer.echo(json.dumps({"out": str(self.out), **facts, "expected": None if gain is None else gain.document}))
            return
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        for table in [*tables, *([] if gain is None else [gain.table])]:
            console.print(table)
        console.print(f"{what} in {self.out}; to use: --drafter {drafter}", soft_wrap=True)
        console.print("`outpace tune` measures what it gains." if gain is None else gain.advice, soft_wrap=True)

    def _expected(self, result: DraftHeads | DraftRecord, drafter: str, num_lookahead: int) -> Expected | None:
        """What the drafter should gain on this machine; None if the acceptance on held-out texts is not known."""
        from outpace.training.expected import expected
        from outpace.training.processes import processes

        held_out = result.training["held_out"]
        lengths = held_out.get("acceptance_by_size")
        if not lengths or not processes().is_first:
            return None
        return expected(self.source, drafter, lengths, num_lookahead)


def training_command(data: Any = Data) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose first parameter is a TrainingOptions: on the command line, the fields of that class take its place.

    Those up to `max_tokens` come before the command's own options, the others after them, last those of the model. `data` is the annotation
    of --data.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        of_the_model = {field.name for field in fields(ModelChoice)}
        shared = sorted(parameters_of(TrainingOptions, {"data": data}), key=lambda parameter: parameter.name in of_the_model)
        own = own_parameters(command)[1:]
        middle = 1 + [parameter.name for parameter in shared].index("max_tokens")

        def run(**options: Any) -> None:
            given = {parameter.name: options.pop(parameter.name) for parameter in shared}
            command(TrainingOptions(**given), **options)

        return signed(command, run, [*shared[:middle], *own, *shared[middle:]])

    return decorate
