"""Masks by position: sliding windows and chunks, layer by layer, for tokens whose place in the text is not their row.

A model with windows builds one mask per kind of layer and asks `transformers.masking_utils` for each of them. Under the attention
implementations registered here, that question reaches `_mask`, which applies the model's own rule to the positions of the running
forward pass: a token of a draft tree stands at its depth, wherever its row is. Outside a forward pass of ours, and for every other
model, nothing changes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, eager_mask, sdpa_mask

IMPLEMENTATIONS = {"sdpa": "by_position_sdpa", "eager": "by_position_eager"}  # of transformers -> ours
_running = threading.local()  # .places: of the forward pass of this thread


class Windows:
    """The widths that the layers of a model asked for in its forward passes."""

    def __init__(self) -> None:
        self.asked: set[int] = set()


@contextmanager
def by_position(positions: Any, visible: Any, windows: Windows) -> Iterator[None]:
    """Inside the `with` block: tokens at `positions` [B, T] attend to keys at positions `visible` [B, T, R], or not where that is -1."""
    _running.places = positions, visible, windows
    try:
        yield
    finally:
        _running.places = None


def running_mask(rule: Any, dtype: Any, window: int | None = None) -> Any:
    """The mask [B, 1, T, R] of a mask function in the forward pass that runs inside `by_position`; None outside of one. A `window` given
    is counted as asked for."""
    places = getattr(_running, "places", None)
    if places is None:
        return None
    positions, visible, windows = places
    if window:
        windows.asked.add(window)
    batch = torch.arange(len(positions), device=positions.device)[:, None, None, None]
    allowed = rule(batch, torch.zeros_like(batch[:1]), positions[:, None, :, None], visible[:, None])
    mask = torch.zeros(visible[:, None].shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~(allowed & (visible[:, None] >= 0)), torch.finfo(dtype).min)


def _mask(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function for AttentionMaskInterface: the model's rule by position inside `by_position`, else the `plain` one by row."""

    def build(*args: Any, mask_function: Any = causal_mask_function, dtype: Any = torch.float32, **options: Any) -> Any:
        mask = running_mask(mask_function, dtype, options.get("local_size"))
        return plain(*args, mask_function=mask_function, dtype=dtype, **options) if mask is None else mask

    return build


def _eager_attention(module: Any, *args: Any, **options: Any) -> Any:
    """The eager attention of the model's own file."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **options)


def can_mask_by_position(model: Any) -> bool:
    """Does the model take its attention and its masks from the interfaces of transformers?"""
    module = sys.modules[type(model).__module__]
    return bool(model._can_set_attn_implementation()) and hasattr(module, "eager_attention_forward")


AttentionInterface.register(IMPLEMENTATIONS["sdpa"], sdpa_attention_forward)
AttentionInterface.register(IMPLEMENTATIONS["eager"], _eager_attention)
AttentionMaskInterface.register(IMPLEMENTATIONS["sdpa"], _mask(sdpa_mask))
AttentionMaskInterface.register(IMPLEMENTATIONS["eager"], _mask(eager_mask))
