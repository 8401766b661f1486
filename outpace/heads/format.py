"""Trained draft heads on disk: a folder with config.json and model.safetensors, read with numpy alone.

config.json names the kind of the heads, the model they were trained for and their training; model.safetensors has the weights in float16.
Heads never change a token of the answer, but the draft tokens of another model's heads are almost always rejected, so such heads are
refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.files import replacing
from outpace.targets.identity import Base

FORMAT = 1
KINDS = ("medusa", "blanks", "eagle", "recycling")
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_TREE_NODES, MAX_TREE_DEPTH, MAX_RANK = 256, 32, 1024


@dataclass(frozen=True)
class DraftHeads:
    """The result of training: weights by name, the settings of its kind, and a record of the training.

    `tree`: paths of a draft tree, the most valuable first; each entry of a path is the rank within that head's list of tokens.
    `training`: data, steps and metrics, for people only.
    """

    kind: str
    base: Base
    settings: dict[str, Any]
    tensors: dict[str, Array]
    tree: list[list[int]] | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the heads to a folder, which may contain other files. A crash leaves the old heads, none or the new ones.

        Raises OutpaceError if the folder cannot be written to, BadInputError for a weight that does not fit into float16.
        """
        folder = Path(folder)
        record = {"format": FORMAT, "kind": self.kind, "base": asdict(self.base), "settings": self.settings}
        text = json.dumps({**record, "tree": self.tree, "training": self.training}, indent=2)
        tensors = {name: np.ascontiguousarray(stored(tensor)) for name, tensor in self.tensors.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / CONFIG) as config, replacing(folder / WEIGHTS) as weights:  # weights are replaced first
                weights.write_bytes(save(tensors))  # save_file() would let nobody else read the file
                config.write_text(text, "utf-8")
                for written in (weights, config):
                    _flush(written)
                (folder / CONFIG).unlink(missing_ok=True)  # a folder without it has no heads
        except OSError as error:
            raise OutpaceError(f"cannot write the heads to {folder}: {error.strerror or error}") from error

    @classmethod
    def from_pretrained(cls, folder: str | Path, base: Base | None = None) -> DraftHeads:
        """Read heads from a folder. Raises BadInputError if they are missing, damaged, of an unknown kind or format, or made for another
        model than `base` (such as `llm.target.base`)."""
        folder = Path(folder).expanduser()
        config = read_config(folder)
        if config.get("format") != FORMAT or config.get("kind") not in KINDS:
            raise BadInputError(f"{folder}: heads of format {config.get('format')!r}, kind {config.get('kind')!r}; known: 1, {KINDS}")
        settings, training = config.get("settings"), config.get("training", {})
        if not isinstance(settings, dict) or not isinstance(training, dict):
            raise BadInputError(f"{folder / CONFIG}: settings and training must be objects")
        made_for, tree = _base_of(folder, config.get("base")), _tree_of(folder, config.get("tree"))
        if base is not None:
            try:
                made_for.check(base)
            except BadInputError as error:
                raise BadInputError(f"the heads in {folder} do not fit: {error}") from error
        return cls(config["kind"], made_for, settings, read_tensors(folder / WEIGHTS), tree, training)


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Read config.json, or another JSON file, from a folder. Raises BadInputError if it is missing or cannot be read."""
    path = folder / name
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise BadInputError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(f"there are no heads in {folder}: {name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadInputError(f"{path} is not a JSON object")
    return config


def read_tensors(path: Path) -> dict[str, Array]:
    """Read all tensors of a safetensors file. Raises BadInputError if it is missing or damaged, or a weight is not finite."""
    try:
        tensors: dict[str, Array] = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"cannot read {path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BadInputError(f"{path}: {name} has values that are not finite")
    return tensors


def stored(tensor: Array) -> Array:
    """Convert a tensor to its type on disk: floats to float16, integers unchanged. Raises BadInputError for values outside float16."""
    if tensor.dtype.kind != "f":
        return tensor
    if tensor.size and not np.abs(tensor).max() <= np.finfo(np.float16).max:  # also false for NaN
        raise BadInputError("a weight does not fit into float16; nothing was written")
    return tensor.astype(np.float16)


def _flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _base_of(folder: Path, record: Any) -> Base:
    fields = {"name": str, "fingerprint": str, "hidden_size": int, "vocab_size": int}
    if not isinstance(record, Mapping) or not all(isinstance(record.get(name), kind) for name, kind in fields.items()):
        raise BadInputError(f"{folder / CONFIG}: base must have {', '.join(fields)}")
    return Base(**{name: record[name] for name in fields})


def _tree_of(folder: Path, tree: Any) -> list[list[int]] | None:
    """Check the tree: every path must come after its parent."""
    if tree is None:
        return None
    seen: set[tuple[int, ...]] = {()}
    if not isinstance(tree, list) or len(tree) > MAX_TREE_NODES:
        raise BadInputError(f"{folder / CONFIG}: tree must be a list of at most {MAX_TREE_NODES} paths")
    for path in tree:
        is_path = isinstance(path, list) and 0 < len(path) <= MAX_TREE_DEPTH
        if not is_path or not all(isinstance(rank, int) and 0 <= rank < MAX_RANK for rank in path):
            raise BadInputError(f"{folder / CONFIG}: {path!r:.80} is not a path of a tree")
        if tuple(path[:-1]) not in seen or tuple(path) in seen:
            raise BadInputError(f"{folder / CONFIG}: the path {path} of the tree comes before its parent, or twice")
        seen.add(tuple(path))
    return tree
