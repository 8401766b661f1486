"""Checks that all kinds of trained heads share: counts, the reduced vocabulary, temperatures."""

from __future__ import annotations

from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads


def count(settings: dict[str, Any], name: str, least: int, most: int) -> int:
    """Read an integer from the settings. Raises BadInputError if it is missing or outside `least` to `most`."""
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadInputError(f"{name} must be an integer from {least} to {most}, not {value!r}")
    return value


def number(settings: dict[str, Any], name: str, least: float, most: float) -> float:
    """Read a number from the settings. Raises BadInputError if it is missing or outside `least` to `most`."""
    value = settings.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise BadInputError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)


def vocab_ids(heads: DraftHeads) -> Array | None:
    """The tokens of the reduced vocabulary [R] int64, or None for the whole vocabulary. Raises BadInputError unless they are R distinct
    tokens of the model."""
    size, found = heads.settings.get("num_draft_vocab"), heads.tensors.get("vocab_ids")
    if size is None and found is None:
        return None
    if found is None or found.dtype.kind not in "iu" or found.shape != (size,) or not size:
        raise BadInputError(f"vocab_ids must be {size} token ids (num_draft_vocab), and is {'missing' if found is None else found.shape}")
    if not 0 <= found.min() <= found.max() < heads.base.vocab_size or len(np.unique(found)) != size:
        raise BadInputError(f"vocab_ids must be different tokens of the vocabulary of {heads.base.vocab_size}")
    return found.astype(np.int64)


def temperatures(given: Any, size: int | None, most: int) -> Array:
    """Temperatures from 0.01 to 100, [size] float32; with `size` None, 1 to `most` of them. Raises BadInputError for anything else."""
    is_list = isinstance(given, list) and (len(given) == size if size is not None else 0 < len(given) <= most)
    if not is_list or not all(isinstance(value, (int, float)) and 0.01 <= value <= 100 for value in given):
        wanted = f"1 to {most}" if size is None else size
        raise BadInputError(f"temperatures must be {wanted} numbers from 0.01 to 100, not {given!r:.80}")
    return np.array(given, np.float32)
