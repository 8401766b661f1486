"""A live model is used for a while and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MASKED_ATTENTION = ("eager", "sdpa")  # flash, flex and paged kernels take no explicit mask


def use_masked_attention(model: Any) -> None:
    """Switch a model whose attention takes no explicit mask to sdpa, or to eager attention where it has no sdpa."""
    if model.config._attn_implementation not in MASKED_ATTENTION:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")


@contextmanager
def borrowed(model: Any) -> Iterator[None]:
    """Evaluation mode and masked attention inside the `with` block; afterwards each module's mode and the attention are as before."""
    training = [module for module in model.modules() if module.training]
    attention = model.config._attn_implementation
    try:
        model.eval()
        use_masked_attention(model)
        yield
    finally:
        for module in training:
            module.training = True
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
