"""A folder that another program will read: it appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.heads.format import CONFIG, stored


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which becomes `out` when all went well. Raises BadInputError if `out` is in use."""
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInputError(f"{out} exists already; choose a new folder")
    temporary = out.parent / f".{out.name}+{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    except OSError as error:
        raise OutpaceError(f"cannot write to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_heads(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array], weights: str) -> None:
    """config.json and the tensors, floats in float16, in the file `weights`. Raises BadInputError for a value without room there."""
    save_file({name: np.ascontiguousarray(stored(tensor)) for name, tensor in tensors.items()}, folder / weights, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
