"""Which live models the torch target can run."""

from __future__ import annotations

import inspect
from typing import Any

from outpace.errors import BadInputError

CACHE_NAMES = ("past_key_values", "cache")  # the cache argument of models: transformers up to 5.23, and from 5.24 on
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "attention", "global", "local"}


def is_static(model: Any) -> bool:
    """Can the calls of this model be captured as CUDA graphs? It must be on one CUDA device as a whole."""
    return model.device.type == "cuda" and len(set(getattr(model, "hf_device_map", {"": model.device}).values())) == 1


def cache_name_of(model: Any) -> str:
    """The name of the model's argument for a cache."""
    inputs = inspect.signature(model.forward).parameters
    return next(name for name in CACHE_NAMES if name in inputs)


def refuse(model: Any) -> None:
    """Raise BadInputError for a model whose config or signature rules out rollback or trees."""
    config, inputs = model.config.get_text_config(), inspect.signature(model.forward).parameters
    layer_types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()
    other = sorted(set(layer_types) - ATTENTION_LAYERS)
    reason = ""
    if model.config.is_encoder_decoder:
        reason = "is an encoder-decoder model; use a decoder-only one"
    elif other or (getattr(model, "_is_stateful", False) and not layer_types):
        state = f"layers of type {', '.join(other)}" if other else "a recurrent state"
        reason = f"has {state}, so rejected draft tokens cannot be rolled back; use a model with attention layers only"
    elif "position_ids" not in inputs or getattr(config, "alibi", False):
        reason = "takes no position ids (ALiBi, for example), which draft trees need; use a model with rotary or learned positions"
    elif not inputs.keys() & set(CACHE_NAMES) or model.get_output_embeddings() is None:
        reason = "is no causal language model with a K/V cache; load it with AutoModelForCausalLM"
    if reason:
        raise BadInputError(f"{type(model).__name__} {reason}")
