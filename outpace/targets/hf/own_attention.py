"""GPT-Neo's attention: it takes no function from transformers and masks by row, so each of its layers is given one that masks by position.

Outside a forward pass of ours the layers attend as before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from outpace.targets.hf.masks import running_mask

Attend = Callable[[Any, Any, Any, Any], tuple[Any, Any]]  # (query, key, value, mask) -> (output, weights), [B, heads, T, width] each


def own_layers(model: Any) -> list[tuple[Any, int]]:
    """The attention modules of this kind in a model, each with its sliding window in tokens; 0: full attention."""
    found = [module for module in model.modules() if hasattr(module, "_attn") and hasattr(module, "attention_type")]
    return [(module, module.config.window_size if module.attention_type == "local" else 0) for module in found]


def rule_of(window: int) -> Any:
    """The mask function of transformers for a sliding window, or for full attention."""
    return sliding_window_causal_mask_function(window) if window else causal_mask_function


def replace_attention(model: Any, attend: Callable[[Any, int], Attend]) -> None:
    """Let each of these layers attend by `attend(module, window)`."""
    for module, window in own_layers(model):
        module._attn = attend(module, window)


def restore_attention(model: Any) -> None:
    """Let these layers attend as transformers wrote them."""
    for module, _ in own_layers(model):
        vars(module).pop("_attn", None)


def attends_by_position(model: Any) -> bool:
    """Have the layers been given a function?"""
    return any("_attn" in vars(module) for module, _ in own_layers(model))


def attend_by_position(module: Any, window: int) -> Attend:
    """Attention of a layer: by position in a forward pass of ours."""
    return partial(_attend, module, window)


def _attend(module: Any, window: int, query: Any, key: Any, value: Any, mask: Any = None) -> tuple[Any, Any]:
    by_position = running_mask(rule_of(window), torch.float32, window)
    if by_position is None:
        found: tuple[Any, Any] = type(module)._attn(module, query, key, value, mask)
        return found
    out = torch.nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), by_position, scale=1.0)
    return out.to(value.dtype), None
