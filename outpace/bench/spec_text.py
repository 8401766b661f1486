"""The spec of a drafter in a table: a line that is too long for it ends at a joint, never within a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

JOINTS = re.compile(r"[^+: ]*[+: ]|[^+: ]+")


@dataclass(frozen=True)
class SpecText:
    """`suffix+recycling`, `llama.cpp:ngram-mod` and the like, for a cell of a table."""

    spec: str

    def lines(self, width: int) -> list[str]:
        """The spec in as few lines of at most `width` characters as its joints allow; a longer part has a line of its own."""
        lines = [""]
        for part in JOINTS.findall(self.spec):
            if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
                lines.append("")
            lines[-1] += part
        return [line.rstrip() for line in lines]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(self.lines(options.max_width)), overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self.lines(1))), len(self.spec)).with_maximum(options.max_width)
