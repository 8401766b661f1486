"""A live model is used for a while and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from outpace.targets.hf.masks import IMPLEMENTATIONS, can_mask_by_position
from outpace.targets.hf.own_attention import attend_by_position, attends_by_position, replace_attention, restore_attention
from outpace.targets.text_length import chunks_of, windows_of


def use_masked_attention(model: Any) -> None:
    """Switch a model to attention that takes an explicit mask: sdpa, or eager where it has no sdpa. If it has sliding windows or chunks,
    each of its layers gets the mask of its kind, by position."""
    replace_attention(model, attend_by_position)
    current = model.config._attn_implementation
    if current in IMPLEMENTATIONS.values():
        return
    masked = current if current in IMPLEMENTATIONS else "sdpa" if model._supports_sdpa else "eager"  # flash and flex take no mask
    config = model.config.get_text_config()
    if (windows_of(config) or chunks_of(config)) and can_mask_by_position(model):
        masked = IMPLEMENTATIONS[masked]
    if masked != current:
        model.set_attn_implementation(masked)


def masks_by_position(model: Any) -> bool:
    """Is the model switched to masks by position?"""
    return model.config._attn_implementation in IMPLEMENTATIONS.values() or attends_by_position(model)


@contextmanager
def borrowed(model: Any) -> Iterator[None]:
    """Evaluation mode and masked attention inside the `with` block; afterwards each module's mode and the attention are as before."""
    training = [module for module in model.modules() if module.training]
    attention, had_own = model.config._attn_implementation, attends_by_position(model)
    try:
        model.eval()
        use_masked_attention(model)
        yield
    finally:
        for module in training:
            module.training = True
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        if not had_own:
            restore_attention(model)
