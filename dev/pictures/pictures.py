"""Draw docs/demo.svg from a real run. usage: python dev/pictures/pictures.py"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from outpace import LLM
from outpace.cli.commands import demo

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    """Draw docs/demo.svg, the output of `outpace demo`."""
    plain, fast = demo.run(LLM(), 160, Console(file=io.StringIO()))
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    console.print(demo.render(plain, fast))
    console.save_svg(str(DOCS / "demo.svg"), title="outpace demo")


if __name__ == "__main__":
    main()
