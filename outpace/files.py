"""Files that are written whole or not at all, and JSON files that are read with a clear error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError


def read_json(path: Path) -> Any:
    """The document in a file. Raises BadInputError."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"{path} is not JSON: {error}") from error


def check_writable(path: Path | None) -> None:
    """Tell before the work that a file cannot be written after it. Raises BadInputError."""
    if path is None or str(path) == "-":
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BadInputError(f"there is no folder {folder} to write {path.name} to")
    if path.is_dir():
        raise BadInputError(f"{path} is a folder")
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"cannot write to the folder {folder}")


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or leave the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text + "\n", "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
