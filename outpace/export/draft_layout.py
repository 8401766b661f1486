"""A draft model for other engines: an ordinary transformers folder, checked and copied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from outpace.errors import BadInputError
from outpace.export.base import BaseModel
from outpace.heads.format import CONFIG, WEIGHTS, read_config
from outpace.models.find import FILES, RECORDS
from outpace.models.transformers_io import load_tokenizer

TOKENIZER = "tokenizer.json"
INDEX = f"{WEIGHTS}.index.json"


def is_model(folder: Path) -> bool:
    """Whether the folder contains a causal language model rather than heads."""
    names = read_config(folder).get("architectures")
    return isinstance(names, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def copy_draft(source: Path, base: BaseModel, folder: Path) -> None:
    """Copy a draft model of this base. Raises BadInputError if it is incomplete or has another vocabulary."""
    size = read_config(source).get("vocab_size")
    if size != base.base.vocab_size:
        raise BadInputError(f"{source} has a vocabulary of {size!r} tokens, but {base.base.name} has {base.base.vocab_size}")
    _check_weights(source)
    if not (source / TOKENIZER).is_file():
        raise BadInputError(f"{source} has no {TOKENIZER}")
    if load_tokenizer(source).get_vocab() != load_tokenizer(base.source.path).get_vocab():
        raise BadInputError(f"the tokenizer of {source} has other tokens than that of {base.base.name}")
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in FILES and file.name not in RECORDS:
            shutil.copy2(file, folder / file.name)


def _check_weights(source: Path) -> None:
    """Raise BadInputError unless all weight files exist and have the tensors listed in the index."""
    try:
        places: dict[str, str] = {}
        if (source / INDEX).is_file():
            places = json.loads((source / INDEX).read_text("utf-8"))["weight_map"]
        found: dict[str, str] = {}
        for name in sorted(set(places.values())) or [WEIGHTS]:
            with safe_open(source / Path(name).name, framework="np") as file:
                found |= dict.fromkeys(file.keys(), name)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"cannot read the weights in {source}: {str(error).splitlines()[0] if str(error) else error!r}") from error
    missing = sorted(set(places) - found.keys())
    if missing or not found:
        raise BadInputError(f"the weights in {source} lack {', '.join(missing)[:200] or 'everything'}; {CONFIG} alone is not a model")
