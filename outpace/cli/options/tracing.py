"""The options `--trace` and `--trace-text`, which several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli.options.rules import needs
from outpace.files import check_writable

if TYPE_CHECKING:
    from outpace.llm import LLM

TRACE_RULE = needs("trace", "trace_text")


@dataclass(frozen=True)
class Tracing:
    """Where the steps of a model are written, if anywhere, and whether with their texts."""

    trace: Annotated[Path | None, typer.Option("--trace", help="Write one JSON line per step to this file, for `outpace report`.")] = None
    trace_text: Annotated[bool, typer.Option("--trace-text", help="With --trace: write the texts of tokens, too.")] = False

    def check(self, *others: Path | None) -> None:
        """Raise BadInputError, before a model loads, for a trace or another file that cannot be written."""
        for path in (self.trace, *others):
            check_writable(path)

    @contextmanager
    def of(self, llm: LLM) -> Iterator[None]:
        """Write the steps of an LLM while this block runs. Raises BadInputError."""
        from outpace.machine import num_cores, processor
        from outpace.trace.recorder import recording

        about = {"model": llm.name, "precision": llm.precision, "machine": {"cpu": processor(), "cores": num_cores()}}
        with recording(llm.engine, self.trace, about, llm.tokenizer.token_text if self.trace_text else None):
            yield
