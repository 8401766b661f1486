"""Surgery on converted models: the paged form that the CPU target runs, and the parts of it that helpers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from outpace.errors import BadInputError


def paged(model: Any, hidden: bool) -> Any:
    """Turn a stateful IR into the paged form, with logits for chosen rows only, `logit_rows`, and hidden states for `hidden_rows`."""
    paged_attention_transformation(model, allow_qq_bias=True)
    head = _head_of(model)
    states = head.input_value(0)
    head.input(0).replace_source_output(_chosen(model, states, "logit_rows").output(0))
    if hidden:
        model.add_results([ops.result(ops.convert(_chosen(model, states, "hidden_rows"), "f32"))])
    model.validate_nodes_and_infer_types()
    return model


def _chosen(model: Any, states: Any, name: str) -> Any:
    """The rows of `states` that a new input of the model names."""
    return ops.gather(states, add_input(model, name, [-1], np.int32), ops.constant(np.int64(0)))


def add_input(model: Any, name: str, shape: Sequence[int], dtype: Any) -> Any:
    """A new input of the model; -1 in the shape for what may be of any length."""
    parameter = ops.parameter(ov.PartialShape(list(shape)), dtype=dtype, name=name)
    parameter.output(0).get_tensor().set_names({name})
    model.add_parameters([parameter])
    return parameter


def _head_of(model: Any) -> Any:
    """The MatMul that makes logits of hidden states."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    return node


def lm_head(model: Any) -> Any:
    """The last step of a stateful IR as a model of its own: hidden states [B, rows, H] -> logits [B, rows, V]."""
    head = _head_of(model)
    hidden = ops.parameter(head.input_value(0).get_partial_shape(), dtype=np.float32, name="hidden")
    head.input(0).replace_source_output(hidden.output(0))
    return ov.Model([model.output("logits").get_node()], [hidden])


def embeddings(model: Any) -> Any:
    """The first step of a stateful IR as a model of its own: token ids [B, rows] int64 -> [B, rows, H]. Raises BadInputError where it is
    no table that ids are looked up in."""
    token_ids = model.input("input_ids").get_node()
    node = token_ids
    while node.get_type_name() != "Gather":
        readers = [target.get_node() for target in node.output(0).get_target_inputs()]
        node = next((reader for reader in readers if reader.get_type_name() in ("Convert", "Gather")), None)
        if node is None:
            raise BadInputError("this model's embeddings have no form that a helper could share")
    return ov.Model([ops.result(node)], [token_ids])
