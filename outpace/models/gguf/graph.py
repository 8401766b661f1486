"""A Llama-family decoder as an OpenVINO model, with the same inputs, outputs and states as models converted from transformers.

Inputs input_ids, attention_mask, position_ids [B, rows] int64 and beam_idx [B] int32; output logits [B, rows, V]; K/V are states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.models.gguf import nodes
from outpace.models.gguf.model_config import Config
from outpace.models.gguf.names import Parameter
from outpace.models.gguf.weights import Weight
from outpace.targets.openvino.graphs import record_attention

Loader = Callable[[Parameter], Weight]


class Graph:
    """Builds one model. `load` reads a matrix in the target number format; it is called once per matrix, layer by layer."""

    def __init__(self, config: Config, parameters: Mapping[str, Parameter], load: Loader):
        self.config, self.parameters, self.load = config, parameters, load
        self.inputs = {name: _input(name, [-1, -1], np.int64) for name in ("input_ids", "attention_mask", "position_ids")}
        self.inputs["beam_idx"] = _input("beam_idx", [-1], np.int32)
        self.sinks: list[Any] = []
        self.batch = ops.gather(ops.shape_of(self.inputs["input_ids"]), nodes.ints(0), ops.constant(np.int64(0)))
        self.cos, self.sin = nodes.angles(self.inputs["position_ids"], config.inverse_frequencies)
        self.mask = nodes.causal_mask(self.inputs["input_ids"], self.inputs["attention_mask"])

    def build(self) -> Any:
        table = self._matrix("model.embed_tokens")
        ids = ops.convert(self.inputs["input_ids"], "i32")
        x = ops.gather(table, ids, ops.constant(np.int32(0)))
        for layer in range(self.config.num_layers):
            x = self._layer(x, f"model.layers.{layer}", layer)
        x = self._norm(x, "model.norm")
        head = table if self.config.is_tied else self._matrix("lm_head")
        result = ops.result(nodes.product(x, head, "model.lm_head"))
        result.output(0).get_tensor().set_names({"logits"})
        model = ov.Model([result], self.sinks, list(self.inputs.values()), "model")
        if any(self.config.windows):
            record_attention(model, [(window, ()) for window in self.config.windows])
        return model

    def _layer(self, x: Any, name: str, index: int) -> Any:
        x = ops.add(x, self._attention(self._norm(x, f"{name}.input_layernorm"), f"{name}.self_attn", index))
        normed = self._norm(x, f"{name}.post_attention_layernorm")
        gate = ops.swish(self._linear(normed, f"{name}.mlp.gate_proj"))
        return ops.add(x, self._linear(ops.multiply(gate, self._linear(normed, f"{name}.mlp.up_proj")), f"{name}.mlp.down_proj"))

    def _attention(self, x: Any, name: str, index: int) -> Any:
        config = self.config
        query, key = (
            nodes.rotated(self._heads(x, f"{name}.{kind}", heads), self.cos, self.sin, config.head_dim)
            for kind, heads in (("q", config.num_heads), ("k", config.num_kv_heads))
        )
        value = nodes.heads_first(nodes.heads_of(self._linear(x, f"{name}.v_proj"), config.num_kv_heads, config.head_dim))
        times = config.num_heads // config.num_kv_heads
        keys, values = (nodes.repeated(self._cached(new, f"{index}.{kind}"), times) for new, kind in ((key, "key"), (value, "value")))
        scale = nodes.scalar(config.head_dim**-0.5)
        attended = ops.scaled_dot_product_attention(query, keys, values, self.mask, scale, causal=False)
        joined = ops.reshape(nodes.heads_first(attended), nodes.ints(0, 0, config.num_heads * config.head_dim), True)
        return self._linear(joined, f"{name}.o_proj")

    def _heads(self, x: Any, name: str, num_heads: int) -> Any:
        """Queries or keys [B, heads, rows, head_dim], before the rotary embedding."""
        split = nodes.heads_of(self._linear(x, f"{name}_proj"), num_heads, self.config.head_dim)
        return nodes.heads_first(self._norm(split, f"{name}_norm") if f"{name}_norm.weight" in self.parameters else split)

    def _cached(self, new: Any, name: str) -> Any:
        """Append new rows to a state; returns the state's new value [B, kv_heads, rows, head_dim]."""
        config, variable = self.config, f"past_key_values.{name}present.{name}"
        shape = ops.concat([self.batch, nodes.ints(config.num_kv_heads, 0, config.head_dim)], 0)
        empty = ops.broadcast(nodes.scalar(0.0), shape)  # without an initial value OpenVINO's paged attention pass matches nothing
        past = ops.read_value(empty, variable, np.float32, ov.PartialShape([-1, config.num_kv_heads, -1, config.head_dim]))
        rows = ops.concat([ops.gather(past, self.inputs["beam_idx"], ops.constant(np.int64(0))), new], -2)
        self.sinks.append(ops.assign(rows, variable))
        return rows

    def _norm(self, x: Any, name: str) -> Any:
        return nodes.rms_norm(x, self.parameters[f"{name}.weight"].vector(), self.config.epsilon)

    def _matrix(self, name: str) -> Any:
        return nodes.matrix(self.load(self.parameters[f"{name}.weight"]))

    def _linear(self, x: Any, name: str) -> Any:
        bias = self.parameters.get(f"{name}.bias")
        return nodes.product(x, self._matrix(name), f"model.{name}", bias.vector() if bias else None)


def _input(name: str, shape: list[int], dtype: Any) -> Any:
    parameter = ops.parameter(ov.PartialShape(shape), dtype=dtype, name=name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter
