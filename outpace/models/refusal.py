"""Why a model cannot be used, in one line: refusals before its weights are read, and the reason inside another library's error."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError, OutpaceError

ADAPTER = "adapter_config.json"
READABLE = {"mxfp4"}  # quantized weights that transformers turns into plain ones while it loads them
LONGEST = 300  # characters of a reason
NO_TOKENIZER = "there is no tokenizer.json, nor anything that one could be made of here"
SPEAKING = (RuntimeError, ValueError, ImportError, OSError, OutpaceError)  # errors whose text is a sentence; of others the type is named
NOISE = re.compile(  # lines around the reason in messages of OpenVINO, torch and transformers
    r"$|Check '.*' failed at |Exception(:| from )|.*FrontEnd API failed with \w+:?$|While validating |Couldn't get TorchScript module "
    r"|Traceback |File \"|Please check correctness |.*For details look at the above report"
)
CLEARER = (  # what a library says, and the same in our words
    (re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+?)Config'> .*"), r"\1 is no causal language model"),
    (re.compile(r".*contains custom code which must be executed.*"), "it needs Python code from its folder, which outpace never runs"),
    (re.compile(r".*iostream error.*"), "a file could not be written; the disk may be full"),
    (
        re.compile(r"Unable to load vocabulary from file.*|Couldn't instantiate the backend tokenizer.*"),
        "there is no tokenizer.json, nor anything that one could be made of here",
    ),
)


def reason_of(error: BaseException) -> str:
    """The reason of a failure in one line: of the error that the others were raised from, without the frame that libraries put around
    it."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    root = next((found for found in chain if isinstance(found, OutpaceError)), chain[-1])
    if isinstance(root, OSError) and root.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    lines = [line.strip() for line in str(root).splitlines()]
    text = next((line for line in lines if not NOISE.match(line)), "")
    for pattern, ours in CLEARER:
        text = pattern.sub(ours, text)
    kind = "" if isinstance(root, SPEAKING) and text else type(root).__name__
    return ": ".join(part for part in (kind, text) if part)[:LONGEST]


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


def refuse_quantized(source: Path) -> None:
    """Raise BadInputError for a folder of quantized weights, which the converter cannot read."""
    method = _json_of(source / "config.json").get("quantization_config", {}) if source.is_dir() else {}
    name = str(method.get("quant_method", "")) if isinstance(method, dict) else ""
    if name and name not in READABLE:
        raise BadInputError(f"its weights are quantized with {name}, which cannot be converted; use the original model or a .gguf file")


def _json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if it cannot be read, which loading the model reports."""
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
