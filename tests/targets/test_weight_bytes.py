"""The bytes of weights that a forward pass reads, on OpenVINO."""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.targets.openvino import graphs


def test_weights_that_a_pass_reads_are_all_but_a_table_that_is_only_looked_up_in():
    ids, states = ops.parameter([-1], np.int64), ops.parameter([-1, 8], np.float32)
    packed = ops.constant(np.ones((100, 8), np.int8))  # 800 bytes, looked up in behind their unpacking
    table = ops.multiply(ops.convert(packed, "f32"), ops.constant(np.ones((100, 1), np.float32)))
    rows = ops.gather(table, ids, ops.constant(np.int64(0)))
    head = ops.constant(np.ones((8, 50), np.float32))  # 1600 bytes
    logits = ops.matmul(ops.add(rows, states), head, False, False)
    model = ov.Model([logits], [ids, states])
    assert graphs.weight_bytes(model) == 1600 + 8  # the head, and the axis of the lookup
    tied = ops.matmul(ops.add(rows, states), table, False, True)
    assert graphs.weight_bytes(ov.Model([tied], [ids, states])) == 800 + 400 + 8
    best = ops.topk(logits, 2, -1, "max", "value").output(0)
    assert graphs.weight_bytes(ov.Model([best], [ids, states])) == 0  # as in a mixture of experts
