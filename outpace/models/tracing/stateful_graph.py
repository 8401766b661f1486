"""Trace a transformers model with K/V as state, in the form that OpenVINO's paged attention transformation recognizes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import torch
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as compute_wide  # large weights stay, all else is float32
from openvino.frontend.pytorch.patch_model import _unpatch_torch_functions as restore_torch
from transformers.cache_utils import Cache

from outpace.errors import BadInputError
from outpace.models.tracing.attention import KINDS, Attention, PassingLayer
from outpace.targets.hf.live_models import cache_name_of
from outpace.targets.openvino.graphs import record_attention

NARROW = (torch.bfloat16, torch.float16)
LOOPS = ("Iterating over a tensor", "Converting a tensor to a Python list")  # what torch warns of


class Traced(torch.nn.Module):
    """The model with K/V as plain inputs and outputs, a pair for each call of its attention."""

    def __init__(self, model: Any, attention: Attention):
        super().__init__()
        self.model, self.attention = model, attention
        self.cache_name = cache_name_of(model)
        self.layers = [PassingLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> Any:
        num_new, num_all = input_ids.shape[1], attention_mask.shape[1]
        keys = torch.arange(num_all)[None, None, None, :]
        queries = (torch.arange(num_new) + num_all - num_new)[None, None, :, None]
        hidden = torch.finfo(torch.float32).min
        mask = torch.where(keys <= queries, 0.0, hidden) + torch.zeros(input_ids.shape[0], 1, 1, 1)
        self.attention.begin(mask, past)
        cache = {self.cache_name: Cache(layers=self.layers)}
        out = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=True, **cache)
        return (out.logits, *self.attention.present)


@dataclass(frozen=True)
class Trace:
    """An OpenVINO model, the widths of its sliding windows, and whether the code that was traced loops over the values of tensors: then the
    model may only be right for the tokens it was traced with."""

    model: Any
    windows: set[int]
    has_loops: bool


def trace(model: Any) -> Trace:
    """Trace an OpenVINO model with inputs input_ids, attention_mask, position_ids, beam_idx and K/V as state; the model's attention is
    replaced for good. Raises BadInputError for attention that cannot be followed or expressed."""
    if any(parameter.dtype in NARROW for parameter in model.parameters()):
        compute_wide(model)
        restore_torch()  # what it changes there serves experts only
    attention = Attention()
    traced = Traced(model, attention)
    with attention.used_by(model):
        traced(torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long), torch.arange(3)[None])
        calls = list(attention.calls)
        if not calls:
            raise BadInputError("its attention is code of its own, which cannot be converted; use --target hf")
        past = [torch.randn(1, call.num_heads, 5, width) for call in calls for width in call.widths]
        example = (torch.ones(1, 3, dtype=torch.long), torch.ones(1, 8, dtype=torch.long), torch.arange(5, 8)[None], *past)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", torch.jit.TracerWarning)
            converted = ov.convert_model(traced, example_input=example)
    kv_names = [f"{i}.{kind}" for i in range(len(calls)) for kind in KINDS]
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in kv_names)]
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(converted.outputs, ["logits", *(f"present.{name}" for name in kv_names)], strict=True):
        port.get_tensor().set_names({name})
    states = [ov.PartialShape([-1, call.num_heads, -1, width]) for call in calls for width in call.widths]
    shapes = [*[ov.PartialShape([-1, -1])] * (len(names) - len(states)), *states]
    converted.reshape(dict(zip(list(converted.inputs), shapes, strict=True)))
    _add_beam_index(converted, names)
    apply_make_stateful_transformation(converted, {f"past_key_values.{name}": f"present.{name}" for name in kv_names})
    _initialise_states(converted)
    record_attention(converted, [(call.window, call.sinks) for call in calls])
    has_loops = any(str(warning.message).startswith(LOOPS) for warning in told)
    return Trace(converted, {call.window for call in calls}, has_loops)


def _add_beam_index(model: Any, names: list[str]) -> None:
    """Add a Gather by beam_idx to every K/V input, which is part of the pattern that the paged transformation matches."""
    beam = ops.parameter(ov.PartialShape([-1]), dtype=np.int32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam])
    for port, name in zip(list(model.inputs), names, strict=False):
        if name.startswith("past"):
            node = port.get_node()
            consumers = list(node.output(0).get_target_inputs())
            gather = ops.gather(node, beam, ops.constant(np.int64(0)))
            for consumer in consumers:
                consumer.replace_source_output(gather.output(0))
    model.validate_nodes_and_infer_types()


def _initialise_states(model: Any) -> None:
    """Give every ReadValue an empty initial value, which the paged transformation needs to match."""
    batch = ops.gather(ops.shape_of(model.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0))
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            _, num_heads, _, width = op.get_output_partial_shape(0)
            dims = ops.concat([batch, ops.constant(np.array([num_heads.get_length(), 0, width.get_length()], np.int64))], 0)
            op.set_arguments([ops.broadcast(ops.constant(0.0, dtype=op.get_output_element_type(0)), dims)])
    model.validate_nodes_and_infer_types()
