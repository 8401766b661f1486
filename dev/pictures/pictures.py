"""Draw the pictures of the documents from real runs. usage: python dev/pictures/pictures.py"""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from rich.console import Console
from terminal_svg import TERMINAL_SVG

from outpace import LLM
from outpace.cli import side_by_side
from outpace.outputs import RequestOutput

OUT = Path(__file__).parents[2] / "docs" / "pictures"
SHOWN_LINES = 14  # of each answer: the picture has to fit on a page


def main() -> None:
    """docs/pictures/demo.svg: what `outpace demo` shows, long answers cut. Run it on a quiet machine."""
    llm = LLM("coder-0.5b", "auto")
    compared = [side_by_side.run(llm, job, None, Console(file=io.StringIO())) for job in side_by_side.jobs()]
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    for job in compared:
        console.print(side_by_side.render(replace(job, plain=cut(job.plain), fast=cut(job.fast))))
    console.save_svg(str(OUT / "demo.svg"), title="outpace demo", code_format=TERMINAL_SVG)


def cut(output: RequestOutput) -> RequestOutput:
    """The output with the first lines of its text only; its figures stay those of the whole."""
    lines = output.text.split("\n")
    if len(lines) <= SHOWN_LINES:
        return output
    text = "\n".join(lines[:SHOWN_LINES])
    kept = sum(end <= len(text) for end in accumulate(map(len, output.pieces)))
    pieces, drafted = [*output.pieces[:kept], "\n…"], [*output.from_draft[:kept], False]
    return replace(output, text=f"{text}\n…", pieces=pieces, from_draft=drafted)


if __name__ == "__main__":
    main()
