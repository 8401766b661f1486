"""Parts of compiled heads: 8-bit weights, the target's LM head as the end of another graph, compile settings.

Between two forward passes of the target the weights have to come from memory, so their size matters: the heads' own weights are rounded
to 8 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.arrays import Array
from outpace.targets.base import LMHead

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}


def compiled(model: Any, threads: int | None) -> Any:
    """Compile the model for the CPU and return an infer request. `threads` is that of the target; None leaves it to OpenVINO."""
    settings = {**SETTINGS, "INFERENCE_NUM_THREADS": threads} if threads else SETTINGS
    return ov.Core().compile_model(model, "CPU", settings).create_infer_request()


def run(request: Any) -> None:
    """Run with the inputs that have been set; faster than infer()."""
    request.start_async()
    request.wait()


def linear(x: Any, weight: Array) -> Any:
    """x [..., in] times weight [out, in], rounded to 8 bits with one scale per output."""
    scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True).astype(np.float32), 1e-6) / 127
    narrow = ops.convert(ops.constant(np.round(weight / scales).astype(np.int8)), "f32")
    return ops.matmul(x, ops.multiply(narrow, ops.constant(scales)), False, True)


def logits_of(states: Any, lm_head: LMHead, vocab_ids: Array | None) -> Any:
    """Apply the target's LM head to states [B, n, H]: [B, n, R]. A reduced vocabulary is applied to the LM head."""
    if vocab_ids is not None:
        _cut(lm_head.module, vocab_ids, lm_head.vocab_size)
    feed(lm_head.module, states)
    return lm_head.module.outputs[0].get_node().input_value(0)


def feed(model: Any, value: Any) -> None:
    """Replace the model's only input by a value."""
    for consumer in list(model.inputs[0].get_node().output(0).get_target_inputs()):
        consumer.replace_source_output(value.output(0))


def _cut(model: Any, vocab_ids: Array, vocab_size: int) -> None:
    """Keep only these tokens in every constant of the model that has an axis of the vocabulary's size."""
    for op in model.get_ops():
        shape = list(op.output(0).get_shape()) if op.get_type_name() == "Constant" else []
        if vocab_size in shape:
            kept = ops.constant(np.take(op.data, vocab_ids, axis=shape.index(vocab_size)))
            for consumer in list(op.output(0).get_target_inputs()):
                consumer.replace_source_output(kept.output(0))
    model.validate_nodes_and_infer_types()
