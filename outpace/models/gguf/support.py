"""Which files this reader takes; decided by the header alone, before anything is made."""

from __future__ import annotations

from pathlib import Path

from outpace.models.gguf import model_config, tokenizer_json
from outpace.models.gguf.file import read
from outpace.models.gguf.names import unknown_tensors


def reason_against(path: Path) -> str:
    """Why the file is left to the reader of transformers: one phrase, empty when this one takes it.

    Raises BadInputError for a file that is no GGUF file, or that no reader here would read right.
    """
    file = read(path)
    reason = model_config.reason_against(file) or tokenizer_json.reason_against(file.facts)
    if reason:
        return reason
    unknown = unknown_tensors(file, model_config.config_of(file))
    return f"it has tensors that are not known: {', '.join(unknown[:3])}" if unknown else ""
