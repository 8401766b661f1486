"""Draw docs/pictures/demo.svg: what `outpace demo` shows, long answers cut.

usage: python dev/pictures/pictures.py             from dev/pictures/measured/demo.json
       python dev/pictures/pictures.py measure     after a run of the demo on this machine, about a minute
"""

from __future__ import annotations

import io
import sys
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from stored import document, renew
from terminal_svg import TERMINAL_SVG

from outpace import LLM
from outpace.cli import side_by_side
from outpace.cli.side_by_side import Comparison
from outpace.outputs import RequestOutput
from outpace.request import RequestStats

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "demo.svg"
SHOWN_LINES = 14  # of each answer: the picture has to fit on a page


def measure() -> dict[str, Any]:
    """Run the jobs of the demo."""
    llm = LLM("coder-0.5b", "auto")
    compared = [side_by_side.run(llm, job, None, Console(file=io.StringIO())) for job in side_by_side.jobs()]
    return {"comparisons": [asdict(replace(one, plain=short(one.plain), fast=short(one.fast))) for one in compared]}


def short(output: RequestOutput) -> RequestOutput:
    """The output without its prompt, which no picture shows."""
    return replace(output, prompt_token_ids=[])


def output_of(stored: dict[str, Any]) -> RequestOutput:
    """An output that was stored."""
    return RequestOutput(**{**stored, "stats": RequestStats(**stored["stats"])})


def cut(output: RequestOutput) -> RequestOutput:
    """The output with the first lines of its text only; its figures stay those of the whole."""
    lines = output.text.split("\n")
    if len(lines) <= SHOWN_LINES:
        return output
    text = "\n".join(lines[:SHOWN_LINES])
    kept = sum(end <= len(text) for end in accumulate(map(len, output.pieces)))
    pieces, drafted = [*output.pieces[:kept], "\n…"], [*output.from_draft[:kept], False]
    return replace(output, text=f"{text}\n…", pieces=pieces, from_draft=drafted)


def draw(measured: dict[str, Any]) -> None:
    """Both comparisons, one below the other."""
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    for one in measured["comparisons"]:
        plain, fast = output_of(one["plain"]), output_of(one["fast"])
        console.print(side_by_side.render(Comparison(one["title"], cut(plain), cut(fast))))
    console.save_svg(str(OUT), title="outpace demo", code_format=TERMINAL_SVG)


if __name__ == "__main__":
    renew("demo", measure, sys.argv[1:])
    draw(document("demo"))
