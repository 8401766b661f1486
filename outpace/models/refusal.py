"""Why a model cannot be used, in one line: refusals before its weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError

ADAPTER = "adapter_config.json"
READABLE = {"mxfp4"}  # quantized weights that transformers turns into plain ones while it loads them


def refuse_folder(folder: Path) -> None:
    """Raise BadInputError for a folder that is no decoder-only language model, or that holds an adapter. Reads only small files."""
    config = _json_of(folder / "config.json")
    if (folder / ADAPTER).is_file():
        base = _json_of(folder / ADAPTER).get("base_model_name_or_path") or "a model it does not name"
        raise BadInputError(f"{folder} holds an adapter of {base}: merge it into that model first, and give the folder of the merged model")
    if not (folder / "config.json").is_file():
        raise BadInputError(f"{folder} has no config.json, so it is not a model folder")
    if config.get("is_encoder_decoder"):
        name = (config.get("architectures") or [config.get("model_type", "of unknown type")])[0]
        raise BadInputError(f"{folder} is an encoder-decoder model ({name}); use a decoder-only one")


def quantization_of(source: Path) -> str:
    """The method by which the weights of a folder are quantized; "" if they are not."""
    found = _json_of(source / "config.json").get("quantization_config")
    return str(found.get("quant_method", "unknown")) if found and isinstance(found, dict) else ""


def refuse_quantized(source: Path) -> None:
    """Raise BadInputError for a folder of quantized weights, which the converter cannot read."""
    name = quantization_of(source)
    if name and name not in READABLE:
        raise BadInputError(f"its weights are quantized with {name}, which cannot be converted; use the original model or a .gguf file")


def _json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if it cannot be read, which loading the model reports."""
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
