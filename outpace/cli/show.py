"""How a measurement is shown: tables, a JSON document and a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from outpace.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console


def table_width() -> int:
    """Characters in a line of the terminal; 120 where the output goes elsewhere."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 120


def prose() -> Console:
    """A console for lines of text: broken between words at a terminal, whole where the output goes elsewhere."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def show_document(document: dict[str, Any], tables: Sequence[Any], json_out: Path | None, page_out: Path | None = None) -> None:
    """Print a measurement as tables, and write the document and a page of it to files; with `-` for the document, print only it."""
    from rich.console import Console

    if page_out is not None:
        from outpace.bench.page.render import page

        write_whole(page_out, page(document))
    if str(json_out) == "-":
        typer.echo(json.dumps(document))
        return
    console = Console(width=table_width())
    for table in tables:
        console.print(table)
    if json_out is not None:
        write_whole(json_out, json.dumps(document, indent=2))
