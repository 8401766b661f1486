"""The command `outpace report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.errors import BadInputError
from outpace.files import check_writable, read_json, write_whole


def report(
    file: Annotated[Path, typer.Argument(help="What `outpace bench --json` or `--trace` wrote.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File of the page. Default: the given name, ending in .html.")] = None,
) -> None:
    """Make a page for the browser of a benchmark's results or of a trace. Its path is printed.

    Examples: `outpace report out.json` or `outpace report trace.jsonl --out trace.html`
    """
    from outpace.bench.page.render import page, trace_page
    from outpace.trace.reader import is_trace, read_trace

    path = out or file.with_suffix(".html")
    if path == file:
        raise BadInputError(f"{file} would be overwritten: name another file with --out")
    check_writable(path)
    text = trace_page(read_trace(file)) if is_trace(file) else page(read_json(file))
    write_whole(path, text)
    typer.echo(path)
