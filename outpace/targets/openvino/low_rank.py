"""Graph edit on an OpenVINO model: low-rank weights beside the MLP of every layer, for gated tokens only."""

from __future__ import annotations

import re
from typing import Any

import openvino as ov
import openvino.opset13 as ops

from outpace.errors import BadInputError
from outpace.targets.low_rank import LowRank

_MLP = re.compile(r"layers\.(\d+)\.mlp\.(up|down)_proj\b")  # matrix products have the names of the model's modules


def add_low_rank(model: Any, gate: Any, low_rank: LowRank) -> None:
    """Make the MLP of layer l, with input x [n, 1, H], add `(x down[l]) up[l]` where `gate` [n, 1, 1] is true. The values of other tokens
    stay bit-identical. Raises BadInputError if the model's MLPs are not found."""
    products: dict[tuple[str, int], Any] = {}
    for node in model.get_ops():
        found = _MLP.search(node.get_friendly_name()) if node.get_type_name() == "MatMul" else None
        if found:
            products[found[2], int(found[1])] = node
    layers = range(low_rank.num_layers)
    if set(products) != {(kind, layer) for kind in ("up", "down") for layer in layers}:
        raise BadInputError(f"low-rank weights need {len(layers)} layers with an MLP each; this model has no such layers")
    for layer in layers:
        before, after = products["up", layer].input_value(0), products["down", layer].output(0)
        readers = list(after.get_target_inputs())
        more = ops.matmul(ops.matmul(before, _constant(low_rank.down[layer]), False, False), _constant(low_rank.up[layer]), False, False)
        chosen = ops.select(gate, ops.add(after, more), after)
        for reader in readers:
            reader.replace_source_output(chosen.output(0))


def _constant(values: Any) -> Any:
    return ops.constant(values, ov.Type.f32)
