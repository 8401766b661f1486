"""Draw the pictures of the documents from real runs. usage: python dev/pictures/pictures.py"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from outpace import LLM
from outpace.cli import side_by_side

OUT = Path(__file__).parents[2] / "docs" / "pictures"


def main() -> None:
    """docs/pictures/demo.svg: what `outpace demo` shows."""
    llm = LLM("coder-0.5b", "auto")
    compared = [side_by_side.run(llm, job, None, Console(file=io.StringIO())) for job in side_by_side.jobs()]
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    for job in compared:
        console.print(side_by_side.render(job))
    console.save_svg(str(OUT / "demo.svg"), title="outpace demo")


if __name__ == "__main__":
    main()
