"""What `make docs` adds to mkdocs: the pages outside docs/, and links that lead to them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "dev/LOG.md", "dev/history/README.md")
LINK = re.compile(r"\[([^\[\]]*)\]\(([^):#]+)(#[^)]*)?\)")


def place_of(path: str) -> str:
    """The place in the site of a file of the project."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/."""
    for name in OUTSIDE:
        files.append(File.generated(config, place_of(name), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turn links between the files of the project into links between the pages of the site; files that are no pages are named only."""
    here = page.file.src_uri
    source = here.removeprefix("project/") if here.startswith("project/") else f"docs/{here}"

    def moved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        found = files.get_file_from_path(place_of(path))
        is_left_out = found is not None and found.inclusion.is_excluded()
        if path in OUTSIDE or (path.startswith("docs/") and not is_left_out):
            return f"[{link[1]}]({posixpath.relpath(place_of(path), posixpath.dirname(here) or '.')}{link[3] or ''})"
        return f"{link[1]} (`{path}`)" if (ROOT / path).exists() else link[0]

    return LINK.sub(moved, markdown)
