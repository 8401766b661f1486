"""Building blocks of the graph, in the form that OpenVINO recognises and fuses: products, norms, rotary embedding, attention mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.arrays import Array
from outpace.models.gguf.weights import Floats, Rows8, Weight

_LAST = 9223372036854775807  # end index of a slice to the end


def ints(*values: int) -> Any:
    """A constant int64 vector."""
    return ops.constant(np.array(values, np.int64))


def scalar(value: float) -> Any:
    """A constant float32 scalar."""
    return ops.constant(np.float32(value))


def matrix(weight: Weight) -> Any:
    """A weight as a float32 node. The CPU plugin multiplies by the packed numbers, not by these values."""
    if isinstance(weight, Floats):
        node = ops.constant(weight.values, shared_memory=True)
        return node if weight.values.dtype == np.float32 else ops.convert(node, "f32")
    if isinstance(weight, Rows8):
        numbers = ops.convert(ops.constant(weight.numbers, shared_memory=True), "f16")
        return ops.convert(ops.multiply(numbers, ops.constant(weight.scales, shared_memory=True)), "f32")
    rows, groups, columns = weight.shape
    numbers = ops.convert(_four_bits(weight.numbers, weight.shape), "f16")
    zeros = ops.convert(_four_bits(weight.zeros, (rows, groups, 1)), "f16")
    scaled = ops.multiply(ops.subtract(numbers, zeros), ops.constant(weight.scales, shared_memory=True))
    return ops.convert(ops.reshape(scaled, ints(rows, groups * columns), False), "f32")


def _four_bits(values: Array, shape: tuple[int, ...]) -> Any:
    return ov.op.Constant(ov.Tensor(values, ov.Shape(list(shape)), ov.Type.u4), shared_memory=False)


def product(x: Any, weight: Any, name: str, bias: Array | None = None) -> Any:
    """x times the transposed matrix. The node is named after its module, because graph surgery finds it by that name."""
    node = ops.matmul(x, weight, False, True, name=f"__module.{name}/aten::linear/MatMul")
    return node if bias is None else ops.add(node, ops.constant(bias.reshape(1, 1, -1)))


def rms_norm(x: Any, scale: Array, epsilon: float) -> Any:
    """RMS norm along the last axis: x divided by its root mean square, times `scale`."""
    mean = ops.reduce_mean(ops.power(x, scalar(2.0)), ints(-1), True)
    normed = ops.multiply(x, ops.divide(scalar(1.0), ops.sqrt(ops.add(mean, scalar(epsilon)))))
    return ops.multiply(ops.constant(scale), normed)


def angles(position_ids: Any, inverse_frequencies: Array) -> tuple[Any, Any]:
    """(cos, sin) [B, 1, rows, head_dim] of the rotary embedding, for position ids [B, rows]."""
    positions = ops.convert(ops.unsqueeze(position_ids, ops.constant(np.int64(2))), "f32")
    half = ops.multiply(positions, ops.constant(inverse_frequencies.astype(np.float32).reshape(1, 1, -1)))
    both, axis = ops.concat([half, half], -1), ops.constant(np.int64(1))
    return ops.unsqueeze(ops.cos(both), axis), ops.unsqueeze(ops.sin(both), axis)


def rotated(x: Any, cos: Any, sin: Any, head_dim: int) -> Any:
    """Rotary embedding of x [B, heads, rows, head_dim]; dimension i is paired with i + head_dim / 2."""
    half, axis, step = head_dim // 2, ints(3), ints(1)
    negative = ops.multiply(ops.slice(x, ints(half), ints(_LAST), step, axis), scalar(-1.0))
    turned = ops.concat([negative, ops.slice(x, ints(0), ints(half), step, axis)], -1)
    return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))


def heads_of(x: Any, num_heads: int, head_dim: int) -> Any:
    """Reshape [B, rows, heads x head_dim] to [B, rows, heads, head_dim]."""
    return ops.reshape(x, ints(0, 0, num_heads, head_dim), True)


def heads_first(x: Any) -> Any:
    """Swap the second and third axes: [B, rows, heads, head_dim] to [B, heads, rows, head_dim], and back."""
    return ops.transpose(x, ops.constant(np.array([0, 2, 1, 3], np.int32)))


def repeated(x: Any, times: int) -> Any:
    """Repeat every head of K or V [B, kv_heads, rows, head_dim] `times` times: [B, kv_heads x times, rows, head_dim]."""
    if times == 1:
        return x
    _, kv_heads, _, head_dim = (d.get_length() if d.is_static else -1 for d in x.get_output_partial_shape(0))
    shape = ops.shape_of(x)
    front = ops.gather(shape, ints(0, 1), ops.constant(np.int64(0)))
    rows = ops.gather(shape, ints(2), ops.constant(np.int64(0)))
    shape = ops.concat([front, ints(times), rows, ints(head_dim)], 0)
    wide = ops.broadcast(ops.unsqueeze(x, ops.constant(np.int64(2))), shape, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(wide, ints(0, kv_heads * times, -1, head_dim), True)


def causal_mask(input_ids: Any, attention_mask: Any) -> Any:
    """Attention mask [B, 1, rows, all rows] float32: 0 where a row may attend, the lowest float32 elsewhere."""
    zero, one, first = ops.constant(np.int64(0)), ops.constant(np.int64(1)), ops.constant(np.int64(0))
    shape = ops.shape_of(input_ids)
    num_new = ops.gather(shape, one, first)
    num_all = ops.gather(ops.shape_of(attention_mask), one, first)
    keys = ops.unsqueeze(ops.range(zero, num_all, one, "i64"), ints(0, 1, 2))
    queries = ops.subtract(ops.add(ops.range(zero, num_new, one, "i64"), num_all), num_new)
    may_look = ops.less_equal(keys, ops.unsqueeze(queries, ints(0, 1, 3)))
    mask = ops.select(may_look, scalar(0.0), scalar(float(np.finfo(np.float32).min)))
    batch = ops.gather(shape, ints(0), first)
    return ops.broadcast(mask, ops.maximum(ops.shape_of(mask), ops.concat([batch, ints(1, 1, 1)], 0)))
