"""Pieces of compiled helpers: weights of 8 bits, the target's LM head as the end of another graph, settings.

Between two passes of the target the weights come from memory, so bytes are what counts: a helper's own are rounded to 8 bits.
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
    """An infer request of the model on the CPU, with as many threads as the target has; None for as many as it likes."""
    settings = {**SETTINGS, "INFERENCE_NUM_THREADS": threads} if threads else SETTINGS
    return ov.Core().compile_model(model, "CPU", settings).create_infer_request()


def run(request: Any) -> None:
    """Run with the inputs that have been set; infer() takes longer."""
    request.start_async()
    request.wait()


def linear(x: Any, weight: Array) -> Any:
    """x [..., in] times a weight [out, in] of 8 bits with one scale for each output."""
    scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True).astype(np.float32), 1e-6) / 127
    narrow = ops.convert(ops.constant(np.round(weight / scales).astype(np.int8)), "f32")
    return ops.matmul(x, ops.multiply(narrow, ops.constant(scales)), False, True)


def logits_of(states: Any, lm_head: LMHead, vocab_ids: Array | None) -> Any:
    """The target's LM head behind states [B, rows, H]: [B, rows, R]; cut to the reduced vocabulary if there is one."""
    if vocab_ids is not None:
        _cut(lm_head.module, vocab_ids, lm_head.vocab_size)
    feed(lm_head.module, states)
    return lm_head.module.outputs[0].get_node().input_value(0)


def feed(model: Any, value: Any) -> None:
    """Put a value in the place of the model's only input."""
    for consumer in list(model.inputs[0].get_node().output(0).get_target_inputs()):
        consumer.replace_source_output(value.output(0))


def _cut(model: Any, vocab_ids: Array, vocab_size: int) -> None:
    """Leave only these tokens in every constant of the model that has an axis of the vocabulary's size."""
    for op in model.get_ops():
        shape = list(op.output(0).get_shape()) if op.get_type_name() == "Constant" else []
        if vocab_size in shape:
            kept = ops.constant(np.take(op.data, vocab_ids, axis=shape.index(vocab_size)))
            for consumer in list(op.output(0).get_target_inputs()):
                consumer.replace_source_output(kept.output(0))
    model.validate_nodes_and_infer_types()
