"""A new folder for another program to read, which appears complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.files import temporary
from outpace.heads.format import CONFIG, stored


def check_unused(out: Path) -> None:
    """Raise BadInputError if something is there already; an empty folder is fine."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInputError(f"{out} already exists; choose a new folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder next to `out` to write to, which is renamed to `out` on success. Raises BadInputError if `out` is in use."""
    out = out.absolute()
    check_unused(out)
    try:
        with temporary(out) as written:
            written.mkdir(parents=True)
            yield written
            for path in filter(Path.is_file, written.rglob("*")):
                path.chmod(0o666 & written.stat().st_mode)  # safetensors' own files only their writer may read
            written.replace(out)  # fails if `out` has been filled in the meantime
    except OSError as error:
        raise OutpaceError(f"cannot write to {out}: {error.strerror or error}") from error


def write_heads(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array], weights: str) -> None:
    """Write config.json and the tensors, floats as float16, to the file `weights`. Raises BadInputError for values outside float16."""
    save_file({name: np.ascontiguousarray(stored(tensor)) for name, tensor in tensors.items()}, folder / weights, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
