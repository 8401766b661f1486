"""Draw the pictures of the documents from real runs. usage: python dev/pictures.py"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from outpace import LLM, demo

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """docs/demo.svg: what `outpace demo` shows."""
    plain, fast = demo.run(LLM(), 160, Console(file=io.StringIO()))
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    console.print(demo.render(plain, fast))
    console.save_svg(str(DOCS / "demo.svg"), title="outpace demo")


if __name__ == "__main__":
    main()
