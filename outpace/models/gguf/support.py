"""Decides from the header alone whether this reader supports a file."""

from __future__ import annotations

from pathlib import Path

from outpace.models.gguf import model_config, tokenizer_json
from outpace.models.gguf.file import read
from outpace.models.gguf.names import unknown_tensors


def reason_against(path: Path) -> str:
    """Reason why the file must be read by transformers, as one phrase; empty if this reader supports it.

    Raises BadInputError if it is not a GGUF file, or if neither reader would read it correctly.
    """
    file = read(path)
    reason = model_config.reason_against(file) or tokenizer_json.reason_against(file.facts)
    if reason:
        return reason
    unknown = unknown_tensors(file, model_config.config_of(file))
    return f"it has tensors that are not known: {', '.join(unknown[:3])}" if unknown else ""
