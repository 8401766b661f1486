"""Draw the pictures of the documents from real runs. usage: python dev/pictures/pictures.py"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from outpace import LLM
from outpace.cli.commands import demo

OUT = Path(__file__).parents[2] / "docs" / "pictures"


def main() -> None:
    """docs/pictures/demo.svg: what `outpace demo` shows."""
    plain, fast = demo.run(LLM(), 160, Console(file=io.StringIO()))
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    console.print(demo.render(plain, fast))
    console.save_svg(str(OUT / "demo.svg"), title="outpace demo")


if __name__ == "__main__":
    main()
