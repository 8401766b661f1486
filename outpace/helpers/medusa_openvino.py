"""Medusa heads as one compiled OpenVINO model: all blocks side by side, one pass over the LM head, the likeliest tokens chosen inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.core import Array
from outpace.helpers.medusa import MedusaWeights

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}


class OpenVINOHeads:
    """`lm_head` is a model [1, rows, H] -> [1, rows, V], taken over by this one: its weights keep their form, 8 bits for example."""

    def __init__(self, weights: MedusaWeights, lm_head: Any, vocab_size: int, top: int):
        self.vocab_ids = weights.vocab_ids
        hidden = ops.parameter(ov.PartialShape([1, weights.hidden_size]), dtype=np.float32, name="hidden")
        states = _blocks(weights, hidden)  # [K, 1, H]
        if weights.lm_heads is None:
            logits = _shared_head(weights, lm_head, states, vocab_size)
        else:
            logits = ops.matmul(states, ops.convert(ops.constant(weights.lm_heads), "f32"), False, True)
        shape = ops.constant(np.array([weights.num_heads, -1]))
        scaled = ops.divide(ops.reshape(logits, shape, False), ops.constant(weights.temperatures[:, None]))
        best = ops.topk(ops.softmax(scaled, -1), ops.constant(np.int64(top)), -1, "max", "value", index_element_type="i32")
        model = ov.Model([ops.result(best.output(0)), ops.result(best.output(1))], [hidden])
        self.request = ov.Core().compile_model(model, "CPU", SETTINGS).create_infer_request()
        self.hidden = np.zeros((1, weights.hidden_size), np.float32)
        self.request.set_input_tensor(0, ov.Tensor(self.hidden, shared_memory=True))

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """See `runtime.Heads`."""
        self.hidden[0] = hidden
        self.request.start_async()  # infer() takes longer
        self.request.wait()
        chances, best = (self.request.get_output_tensor(i).data.copy() for i in range(2))
        return best if self.vocab_ids is None else self.vocab_ids[best], chances


def _blocks(weights: MedusaWeights, hidden: Any) -> Any:
    """hidden [1, H] through every head's blocks and projection: [K, 1, H]."""
    shape = np.array([weights.num_heads, 1, weights.hidden_size])
    x = ops.broadcast(hidden, ops.constant(shape))
    for weight, bias in zip(weights.weights, weights.biases, strict=True):
        x = ops.add(x, ops.swish(ops.add(ops.matmul(x, ops.constant(weight), False, True), ops.constant(bias[:, None]))))
    return x if weights.projections is None else ops.matmul(x, ops.constant(weights.projections), False, True)


def _shared_head(weights: MedusaWeights, lm_head: Any, states: Any, vocab_size: int) -> Any:
    """The target's LM head behind the states, as [1, K, H] in one pass; cut to the reduced vocabulary if there is one."""
    if weights.vocab_ids is not None:
        _cut(lm_head, weights.vocab_ids, vocab_size)
    rows = ops.reshape(states, ops.constant(np.array([1, weights.num_heads, weights.hidden_size])), False)
    for consumer in list(lm_head.inputs[0].get_node().output(0).get_target_inputs()):
        consumer.replace_source_output(rows.output(0))
    return lm_head.outputs[0].get_node().input_value(0)


def _cut(model: Any, vocab_ids: Array, vocab_size: int) -> None:
    """Leave only these tokens in every constant of the model that has an axis of the vocabulary's size."""
    for op in model.get_ops():
        shape = list(op.output(0).get_shape()) if op.get_type_name() == "Constant" else []
        if vocab_size in shape:
            kept = ops.constant(np.take(op.data, vocab_ids, axis=shape.index(vocab_size)))
            for consumer in list(op.output(0).get_target_inputs()):
                consumer.replace_source_output(kept.output(0))
    model.validate_nodes_and_infer_types()
