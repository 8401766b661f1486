"""Graph edits on converted models: the paged form that the CPU target runs, and the parts that trained heads share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from outpace.errors import BadInputError

WINDOW, SINKS = 10, 20  # inputs of PagedAttentionExtension
RECORD = ["outpace", "attention"]  # the path of a fact about the model, in its file
FREQUENT_ROWS = "frequent_rows"
ROW_TYPES = ("f32", "f16", "i8", "u8")  # of weights that numpy can cut
ROW_OPERATIONS = {"Convert": ops.convert, "Multiply": ops.multiply, "Subtract": ops.subtract}
UNPACKING = {"Convert", "Subtract", "Multiply", "Reshape"}  # what stands between stored weights and their use


def paged(model: Any, hidden: bool, num_frequent: int = 0) -> Any:
    """Convert a stateful IR to the paged form, which computes logits only for the tokens `logit_rows` and, with `hidden`, returns the
    hidden states of the tokens `hidden_rows`. With `num_frequent` its last output is the logits of the first so many tokens of the
    vocabulary for the tokens `frequent_rows`; without, or if the LM head has another form than our converters give it, there is none."""
    paged_attention_transformation(model, allow_qq_bias=True)
    _set_attention(model)
    head = _head_of(model)
    states = head.input_value(0)
    head.input(0).replace_source_output(_chosen(model, states, "logit_rows").output(0))
    if hidden:
        model.add_results([ops.result(ops.convert(_chosen(model, states, "hidden_rows"), "f32"))])
    weights = _first_rows(head.input_value(1).get_node(), num_frequent) if num_frequent else None
    if weights is not None:
        model.add_results([ops.result(ops.matmul(_chosen(model, states, FREQUENT_ROWS), weights, False, True))])
    model.validate_nodes_and_infer_types()
    return model


def record_attention(model: Any, calls: Sequence[tuple[int, Sequence[float]]]) -> None:
    """Record the sliding window (0: none) and the sinks of each attention of a stateful IR, in the order in which the model calls them."""
    model.set_rt_info(json.dumps(calls), RECORD)


def _first_rows(weights: Any, count: int) -> Any | None:
    """The first rows of the LM head's weights [V, H], numbers with or without a factor per row, as a node; None for other forms."""
    kind, dtype = weights.get_type_name(), weights.get_element_type()
    if kind == "Constant":
        has_rows = dtype.get_type_name() in ROW_TYPES and weights.get_output_shape(0)[0] > count
        return ops.constant(weights.data[:count].copy()) if has_rows else None
    parts = [_first_rows(source.get_node(), count) for source in weights.input_values()] if kind in ROW_OPERATIONS else [None]
    if any(part is None for part in parts):
        return None
    return ops.convert(parts[0], dtype) if kind == "Convert" else ROW_OPERATIONS[kind](*parts)


def _set_attention(model: Any) -> None:
    """Give each attention its sliding window and sinks, as they were recorded; calls and operations come in the same order."""
    if not model.has_rt_info(RECORD):
        return
    calls = json.loads(model.get_rt_info(RECORD).value)
    operations = [op for op in model.get_ordered_ops() if op.get_type_name() == "PagedAttentionExtension"]
    for operation, (window, sinks) in zip(operations, calls, strict=True):
        if window:
            operation.input(WINDOW).replace_source_output(ops.constant(np.int32(window)).output(0))
        if sinks:
            operation.input(SINKS).replace_source_output(ops.constant(np.array(sinks, np.float32).reshape(1, -1, 1, 1)).output(0))


def _chosen(model: Any, states: Any, name: str) -> Any:
    """Select the rows of `states` that a new input of the model names."""
    return ops.gather(states, add_input(model, name, [-1], np.int32), ops.constant(np.int64(0)))


def add_input(model: Any, name: str, shape: Sequence[int], dtype: Any) -> Any:
    """Add an input to the model; -1 in the shape is a dynamic dimension."""
    parameter = ops.parameter(ov.PartialShape(list(shape)), dtype=dtype, name=name)
    parameter.output(0).get_tensor().set_names({name})
    model.add_parameters([parameter])
    return parameter


def _head_of(model: Any) -> Any:
    """The MatMul that maps hidden states to logits."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    return node


def lm_head(model: Any) -> Any:
    """The LM head of a stateful IR as a separate model: hidden states [B, n, H] -> logits [B, n, V]."""
    head = _head_of(model)
    hidden = ops.parameter(head.input_value(0).get_partial_shape(), dtype=np.float32, name="hidden")
    head.input(0).replace_source_output(hidden.output(0))
    return ov.Model([model.output("logits").get_node()], [hidden])


def embeddings(model: Any) -> Any:
    """The embeddings of a stateful IR as a separate model: token ids [B, n] int64 -> [B, n, H]. Raises BadInputError if the model does
    not look its ids up in a table."""
    token_ids = model.input("input_ids").get_node()
    node = token_ids
    while node.get_type_name() != "Gather":
        readers = [target.get_node() for target in node.output(0).get_target_inputs()]
        node = next((reader for reader in readers if reader.get_type_name() in ("Convert", "Gather")), None)
        if node is None:
            raise BadInputError("this model's embeddings have no form that trained heads could share")
    return ov.Model([ops.result(node)], [token_ids])


def weight_bytes(model: Any) -> int:
    """Bytes of the constants that a forward pass reads whole: all but tables that are only looked up in; 0 for a mixture of experts, which
    chooses what it reads."""
    operations = model.get_ops()
    if any(op.get_type_name() == "TopK" for op in operations):
        return 0
    return sum(op.get_byte_size() for op in operations if op.get_type_name() == "Constant" and not _is_table(op))


def _is_table(op: Any) -> bool:
    """Whether a constant is used as the data of lookups only."""
    uses = [use for output in op.outputs() for use in output.get_target_inputs()]
    return bool(uses) and all(
        use.get_index() == 0 if use.get_node().get_type_name() == "Gather" else _is_unpacked_table(use.get_node()) for use in uses
    )


def _is_unpacked_table(op: Any) -> bool:
    return op.get_type_name() in UNPACKING and _is_table(op)
