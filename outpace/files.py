"""Atomic writes of files and folders, and JSON files that are read with a clear error."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError


def decoded(data: bytes) -> str:
    """UTF-8 text as Python's text files give it: every line ends with \\n. Without the mark that some editors put in front, which is no
    part of the text. Raises UnicodeDecodeError."""
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> str:
    """Read a text file that a person wrote (`decoded`). Raises BadInputError if it cannot be read or is not UTF-8."""
    try:
        return decoded(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"cannot read {path}: it is not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_json(path: Path) -> Any:
    """Read a JSON document. Raises BadInputError if the file cannot be read or is not JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInputError(f"{path} is not JSON: {error}") from error


def check_writable(path: Path | None) -> None:
    """Raise BadInputError if a file cannot be written; called before long work whose result goes to it. None and - are fine."""
    if path is None or str(path) == "-":
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BadInputError(f"there is no folder {folder} to write {path.name} to")
    if path.is_dir():
        raise BadInputError(f"{path} is a folder")
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"cannot write to the folder {folder}")


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A free name next to `path` for a file or folder; what is still there at the end is deleted. Nobody else gets this name: threads may
    write the same file at once, and containers that share a folder have equal process ids."""
    name = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield name
    finally:
        _delete(name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write a file or folder to, which replaces `path` at the end. After an error or a crash the old file is left; of
    an old folder, which cannot be replaced in one step, a crash may leave nothing."""
    with temporary(path) as name:
        yield name
        if name.is_dir():
            _delete(path)
        name.replace(path)


def write_whole(path: Path, text: str) -> None:
    """Write a text and a final newline to a file; after an error or a crash the old file is left."""
    with replacing(path) as name:
        name.write_text(text + "\n", "utf-8")


def _delete(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
