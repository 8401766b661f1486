"""Medusa heads as one compiled OpenVINO model, which runs the LM head once for all of them and selects the likeliest tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.arrays import Array
from outpace.heads.medusa.weights import MedusaWeights
from outpace.heads.openvino_parts import compiled, linear, logits_of, run
from outpace.targets.base import LMHead


class OpenVINOHeads:
    """Absorbs the model of the target's LM head, whose weights keep their precision, such as 8 bits."""

    def __init__(self, weights: MedusaWeights, lm_head: LMHead, top: int):
        self.vocab_ids = weights.vocab_ids
        hidden = ops.parameter(ov.PartialShape([-1, weights.hidden_size]), dtype=np.float32, name="hidden")
        states = [_state(weights, head, hidden) for head in range(weights.num_heads)]
        if weights.lm_heads is None:
            logits = _shared_head(weights, lm_head, states)
        else:
            logits = ops.concat([linear(state, own) for state, own in zip(states, weights.lm_heads, strict=True)], 0)
        size = lm_head.vocab_size if weights.vocab_ids is None else len(weights.vocab_ids)
        by_head = ops.reshape(logits, ops.constant(np.array([weights.num_heads, -1, size])), False)  # [K, n, R]
        scaled = ops.divide(by_head, ops.constant(weights.temperatures[:, None, None]))
        best = ops.topk(ops.softmax(scaled, -1), ops.constant(np.int64(top)), -1, "max", "value", index_element_type="i32")
        model = ov.Model([ops.result(best.output(0)), ops.result(best.output(1))], [hidden])
        self.request = compiled(model, lm_head.threads)

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """See `runtime.Heads`."""
        self.request.set_input_tensor(0, ov.Tensor(np.ascontiguousarray(hidden), shared_memory=True))
        run(self.request)
        confidences, best = (self.request.get_output_tensor(i).data.swapaxes(0, 1).copy() for i in range(2))
        return best if self.vocab_ids is None else self.vocab_ids[best], confidences


def _state(weights: MedusaWeights, head: int, hidden: Any) -> Any:
    """Apply the blocks and the projection of one head to hidden states [n, H]: [n, H]."""
    x = hidden
    for weight, bias in zip(weights.weights[:, head], weights.biases[:, head], strict=True):
        x = ops.add(x, ops.swish(ops.add(linear(x, weight), ops.constant(bias))))
    return x if weights.projections is None else linear(x, weights.projections[head])


def _shared_head(weights: MedusaWeights, lm_head: LMHead, states: Sequence[Any]) -> Any:
    """Apply the target's LM head to the states, K of [n, H], at once: [K * n, R]. A reduced vocabulary is applied to the LM head."""
    rows = ops.unsqueeze(ops.concat(list(states), 0), ops.constant(0))
    return ops.squeeze(logits_of(rows, lm_head, weights.vocab_ids), ops.constant(0))
