"""How long the texts of a model may be, read from its transformers config."""

from __future__ import annotations

import logging
from typing import Any

from outpace.errors import BadInputError

logger = logging.getLogger("outpace")


def windows_of(config: Any) -> set[int]:
    """The widths of the sliding windows that some layers of a model have, in tokens."""
    if "local" in getattr(config, "attention_layers", ()):
        return {int(config.window_size)}
    layer_types = getattr(config, "layer_types", None)
    slides = "sliding_attention" in layer_types if layer_types else getattr(config, "use_sliding_window", True)
    window = getattr(config, "sliding_window", None)
    return {int(window)} if slides and window else set()


def chunks_of(config: Any) -> set[int]:
    """The widths of the chunks outside of which some layers of a model see nothing, in tokens."""
    chunk = getattr(config, "attention_chunk_size", None)
    return {int(chunk)} if chunk and "chunked_attention" in (getattr(config, "layer_types", None) or ()) else set()


def max_length(config: Any, asked: int | None = None, widths: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """The longest text whose logits are exact, in tokens: `asked`, limited by the context, by `widths` that the target cannot mask by, and
    by the places from which a model scales positions by the longest text of its batch. Raises BadInputError if there is no limit."""
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    limits = {"context": context, "given max_len": asked, "sliding window": min(widths, default=None)}
    rope = getattr(config, "rope_parameters", None) or {}
    for entry in (rope, *rope.values()):  # one for all layers, or one per layer type
        if isinstance(entry, dict) and entry.get("rope_type") == "longrope":  # beyond it, one long text changes the others in its batch
            limits["longrope switch"] = entry.get("original_max_position_embeddings")
    if getattr(config, "attn_temperature_tuning", False) and getattr(config, "floor_scale", None):  # counted by the length of the cache
        limits["attention temperature"] = config.floor_scale - 1
    name, limit = min(((name, limit) for name, limit in limits.items() if limit), key=lambda item: item[1], default=("", 0))
    if not limit:
        raise BadInputError("the model's config declares no max_position_embeddings; pass max_len")
    if name not in ("context", "given max_len"):
        logger.warning("texts are limited to %d tokens by the model's %s", limit, name)
    return int(limit)
