"""Import of Medusa heads in the layouts of other tools: the original (FasterDecoding, TGI) and vLLM's.

Original: `{head}.{layer}.linear.weight|bias` and `{head}.{num_layers}.weight`, each head's own LM head. vLLM:
`blocks.{head}.layers.{layer}.weight` (biases are used only with `medusa_fc_bias`), `lm_heads.{head}.weight` and, for a reduced vocabulary,
`token_map`. Neither layout identifies the model the heads were trained for, so only sizes are checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.heads.format import DraftHeads, read_config
from outpace.heads.medusa.weights import medusa_weights
from outpace.targets.identity import Base

NAMES = ("medusa_lm_head.safetensors", "model.safetensors", "medusa_lm_head.pt", "pytorch_model.bin")  # the first that exists is read
PATTERNS = {  # theirs -> ours; {n} is the number of layers
    r"(\d+)\.(\d+)\.linear\.(weight|bias)": r"heads.\1.blocks.\2.\3",
    r"blocks\.(\d+)\.layers\.(\d+)\.(weight|bias)": r"heads.\1.blocks.\2.\3",
    r"(\d+)\.{n}\.weight": r"heads.\1.lm_head.weight",
    r"lm_heads\.(\d+)\.weight": r"heads.\1.lm_head.weight",
    r"token_map": "vocab_ids",
}


def load_medusa(folder: Path, base: Base) -> DraftHeads:
    """Read Medusa heads for this model from a folder in outpace's format or one of the others. Raises BadInputError if they do not fit."""
    config = read_config(folder)
    ours = DraftHeads.from_pretrained(folder, base) if "format" in config else None
    try:
        heads = ours or _imported(folder, config, base)
        medusa_weights(heads)
    except BadInputError as error:
        raise BadInputError(f"the heads in {folder} do not fit: {error}") from error
    return heads


def _imported(folder: Path, config: Mapping[str, Any], base: Base) -> DraftHeads:
    num_heads = _setting(config, "medusa_num_heads", "num_heads")
    num_layers = _setting(config, "medusa_num_layers", "num_hidden_layers")
    theirs = _read(folder)
    tensors = _renamed(theirs, num_layers)
    if any(name.startswith("blocks.") for name in theirs) and not config.get("medusa_fc_bias", False):
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".bias")}
    if config.get("original_lm_head") and "heads.0.lm_head.weight" in tensors:
        tensors |= {f"heads.{head}.lm_head.weight": tensors["heads.0.lm_head.weight"] for head in range(num_heads)}
    for head in range(num_heads):
        for layer in range(num_layers):
            tensors.setdefault(f"heads.{head}.blocks.{layer}.bias", np.zeros(base.hidden_size, np.float32))
    settings = {"num_heads": num_heads, "num_layers": num_layers, "num_draft_vocab": None}
    if "vocab_ids" in tensors:
        settings["num_draft_vocab"] = len(tensors["vocab_ids"])
        tensors = {name: _cut(name, tensor, tensors["vocab_ids"], base) for name, tensor in tensors.items()}
    return DraftHeads("medusa", base, settings, tensors, training={"imported_from": folder.name})


def _setting(config: Mapping[str, Any], *names: str) -> int:
    value = next((config[name] for name in names if name in config), None)
    if not isinstance(value, int) or not 0 <= value <= 64:
        raise BadInputError(f"config.json has no number {names[0]} from 0 to 64")
    return value


def _renamed(theirs: Mapping[str, Array], num_layers: int) -> dict[str, Array]:
    """The tensors under outpace's names. Raises BadInputError for an unknown name."""
    patterns = {re.compile(pattern.replace("{n}", str(num_layers))): name for pattern, name in PATTERNS.items()}
    found = {}
    for name, tensor in theirs.items():
        ours = next((match.expand(ours) for pattern, ours in patterns.items() if (match := pattern.fullmatch(name))), None)
        if ours is None:
            raise BadInputError(f"the tensor {name!r} belongs to no layout of Medusa heads")
        found[ours] = tensor
    return found


def _cut(name: str, tensor: Array, vocab_ids: Array, base: Base) -> Array:
    """Reduce an LM head over the whole vocabulary to the tokens of the map; other tensors stay as they are."""
    is_whole = name.endswith(".lm_head.weight") and len(tensor) == base.vocab_size
    return tensor[vocab_ids] if is_whole and 0 <= vocab_ids.min() <= vocab_ids.max() < base.vocab_size else tensor


def _read(folder: Path) -> dict[str, Array]:
    """Read the weights in a folder, floats as float32, names without their prefix."""
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        raise BadInputError(f"there are no weights, none of {', '.join(NAMES)}")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return {name.removeprefix("medusa_heads."): tensor for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, Array]:
    types = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}
    tensors = {}
    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        for name, entry in entries:
            if entry["dtype"] == "BF16":  # the upper half of a float32; numpy has no bfloat16
                values = (np.frombuffer(entry["data"], np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(entry["data"], types[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    except KeyError as error:
        raise BadInputError(f"{path}: weights of type {error} cannot be read") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInputError(f"cannot read {path}: {error}") from error
    return {name: tensor.astype(np.float32) if tensor.dtype.kind == "f" else tensor for name, tensor in tensors.items()}


def _read_pickle(path: Path) -> dict[str, Array]:
    """Read a torch file. Only tensors are loaded; no code in the file is run."""
    try:
        import torch
    except ImportError as error:
        raise OutpaceError(f"reading {path.name} needs torch: pip install 'outpace[convert]'") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in loaded.items()}
    except Exception as error:
        raise BadInputError(f"cannot read {path}: {str(error).strip().splitlines()[0][:200] or type(error).__name__}") from error
