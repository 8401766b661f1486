"""Medusa heads as one compiled OpenVINO model: one pass over the LM head for all of them, the likeliest tokens chosen inside.

Between two passes of the target the weights come from memory, so bytes are what counts: the heads' own are rounded to 8 bits here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.core import Array
from outpace.helpers.medusa import MedusaWeights
from outpace.helpers.runtime import LMHead

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}


class OpenVINOHeads:
    """The model of the target's LM head is taken over by this one: its weights keep their form, 8 bits for example."""

    def __init__(self, weights: MedusaWeights, lm_head: LMHead, top: int):
        self.vocab_ids = weights.vocab_ids
        hidden = ops.parameter(ov.PartialShape([-1, weights.hidden_size]), dtype=np.float32, name="hidden")
        states = [_state(weights, head, hidden) for head in range(weights.num_heads)]
        if weights.lm_heads is None:
            logits = _shared_head(weights, lm_head, states)
        else:
            logits = ops.concat([_linear(state, own) for state, own in zip(states, weights.lm_heads, strict=True)], 0)
        size = lm_head.vocab_size if weights.vocab_ids is None else len(weights.vocab_ids)
        by_head = ops.reshape(logits, ops.constant(np.array([weights.num_heads, -1, size])), False)  # [K, rows, R]
        scaled = ops.divide(by_head, ops.constant(weights.temperatures[:, None, None]))
        best = ops.topk(ops.softmax(scaled, -1), ops.constant(np.int64(top)), -1, "max", "value", index_element_type="i32")
        model = ov.Model([ops.result(best.output(0)), ops.result(best.output(1))], [hidden])
        settings = {**SETTINGS, "INFERENCE_NUM_THREADS": lm_head.threads} if lm_head.threads else SETTINGS
        self.request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """See `runtime.Heads`."""
        self.request.set_input_tensor(0, ov.Tensor(np.ascontiguousarray(hidden), shared_memory=True))
        self.request.start_async()  # infer() takes longer
        self.request.wait()
        chances, best = (self.request.get_output_tensor(i).data.swapaxes(0, 1).copy() for i in range(2))
        return best if self.vocab_ids is None else self.vocab_ids[best], chances


def _state(weights: MedusaWeights, head: int, hidden: Any) -> Any:
    """hidden [rows, H] through one head's blocks and projection: [rows, H]."""
    x = hidden
    for weight, bias in zip(weights.weights[:, head], weights.biases[:, head], strict=True):
        x = ops.add(x, ops.swish(ops.add(_linear(x, weight), ops.constant(bias))))
    return x if weights.projections is None else _linear(x, weights.projections[head])


def _linear(x: Any, weight: Array) -> Any:
    """x [rows, in] times a weight [out, in] of 8 bits with one scale for each output."""
    scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True).astype(np.float32), 1e-6) / 127
    narrow = ops.convert(ops.constant(np.round(weight / scales).astype(np.int8)), "f32")
    return ops.matmul(x, ops.multiply(narrow, ops.constant(scales)), False, True)


def _shared_head(weights: MedusaWeights, lm_head: LMHead, states: Sequence[Any]) -> Any:
    """The target's LM head behind the states, K of [rows, H], in one pass: [K * rows, R]; cut to the reduced vocabulary if there is one."""
    if weights.vocab_ids is not None:
        _cut(lm_head.module, weights.vocab_ids, lm_head.vocab_size)
    rows = ops.unsqueeze(ops.concat(list(states), 0), ops.constant(0))
    for consumer in list(lm_head.module.inputs[0].get_node().output(0).get_target_inputs()):
        consumer.replace_source_output(rows.output(0))
    return ops.squeeze(lm_head.module.outputs[0].get_node().input_value(0), ops.constant(0))


def _cut(model: Any, vocab_ids: Array, vocab_size: int) -> None:
    """Leave only these tokens in every constant of the model that has an axis of the vocabulary's size."""
    for op in model.get_ops():
        shape = list(op.output(0).get_shape()) if op.get_type_name() == "Constant" else []
        if vocab_size in shape:
            kept = ops.constant(np.take(op.data, vocab_ids, axis=shape.index(vocab_size)))
            for consumer in list(op.output(0).get_target_inputs()):
                consumer.replace_source_output(kept.output(0))
    model.validate_nodes_and_infer_types()
