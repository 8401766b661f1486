"""Low-rank weights of heads in a live transformers model: hooks on its MLPs. The model's own weights and code stay unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from outpace.errors import BadInputError

Gate = Callable[[], torch.Tensor | None]  # [B, T, 1] bool: the tokens that the weights act on; None: no token of this forward pass


def mlps(model: Any, num_layers: int) -> list[Any]:
    """The MLP of every layer, in order. Raises BadInputError if the model has another number of modules named `mlp`."""
    found = [module for name, module in model.named_modules() if name.endswith(".mlp")]
    if len(found) != num_layers:
        raise BadInputError(f"low-rank weights need an `mlp` in each of {num_layers} layers; {type(model).__name__} has {len(found)}")
    return found


def add_low_rank(model: Any, down: Sequence[torch.Tensor], up: Sequence[torch.Tensor], gate: Gate | None = None) -> list[Any]:
    """Add `(x down) up` to the output of each layer's MLP, with down [H, r] and up [r, H]: for the tokens of `gate`, or for all.

    Returns the handles that remove the hooks. The output of tokens outside the gate stays bit-identical. Raises BadInputError; see `mlps`.
    """
    modules = mlps(model, len(down))
    return [module.register_forward_hook(_hook(*pair, gate)) for module, pair in zip(modules, zip(down, up, strict=True), strict=True)]


def _hook(down: torch.Tensor, up: torch.Tensor, gate: Gate | None) -> Callable[..., Any]:
    def add(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        rows = gate() if gate else None
        if gate and rows is None:
            return None
        if not isinstance(output, torch.Tensor):
            raise BadInputError("low-rank weights need layers whose MLP writes one tensor")
        x = inputs[0]
        more = output + (x @ down.to(x.device, x.dtype)) @ up.to(x.device, x.dtype)
        return more if rows is None else torch.where(rows.to(x.device), more, output)

    return add
