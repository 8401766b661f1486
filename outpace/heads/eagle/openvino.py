"""An EAGLE head as one compiled OpenVINO model: embeddings, layer, LM head and the selection of the likeliest tokens.

It runs several times between two forward passes of the target, once per level of the tree, so its latency is the cost of a draft.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from outpace.heads.eagle.weights import EagleWeights
from outpace.heads.openvino_parts import compiled, feed, linear, logits_of, run
from outpace.heads.runtime import EagleOutput, EagleRows
from outpace.targets.base import Embeddings, LMHead

HIDDEN = np.float32(-1e30)  # added to the scores of masked entries


class OpenVINOEagle:
    """Absorbs the models of the target's embeddings and LM head, whose weights keep their precision, such as 8 bits."""

    def __init__(self, weights: EagleWeights, embeddings: Embeddings, lm_head: LMHead, top: int):
        self.vocab_ids, self.groups = weights.vocab_ids, weights.num_heads // weights.num_kv_heads
        kv_shape, size = [-1, weights.num_kv_heads, -1, weights.head_dim], weights.hidden_size
        shapes = {"features": [-1, -1, size], "positions": [-1, -1], "past_keys": kv_shape, "past_values": kv_shape}
        shapes |= {"mask": [-1, -1, -1], "temperatures": [-1, -1]}
        inputs = {name: ops.parameter(ov.PartialShape(shape), dtype=np.float32, name=name) for name, shape in shapes.items()}
        inputs["token_ids"] = ops.parameter(ov.PartialShape([-1, -1]), dtype=np.int64, name="token_ids")
        inputs["queries"] = ops.parameter(ov.PartialShape([-1, -1]), dtype=np.int32, name="queries")
        feed(embeddings.module, inputs["token_ids"])
        embedded = embeddings.module.outputs[0].get_node().input_value(0).get_node()
        keys, values, features = _layer(weights, embedded, inputs)
        logits = logits_of(features, lm_head, self.vocab_ids)
        scaled = ops.divide(logits, ops.unsqueeze(inputs["temperatures"], ops.constant(-1)))
        best = ops.topk(ops.softmax(scaled, -1), ops.constant(np.int64(top)), -1, "max", "value", index_element_type="i32")
        outputs = [keys, values, features, best.output(1), best.output(0)]
        model = ov.Model([ops.result(output) for output in outputs], list(inputs.values()))
        self.names = list(inputs)
        self.request = compiled(model, lm_head.threads)

    def __call__(self, rows: EagleRows) -> EagleOutput:
        """See `runtime.EagleHead`."""
        mask = np.where(rows.visible, np.float32(0), HIDDEN)
        given = {**vars(rows), "mask": mask.repeat(self.groups, axis=1)}  # [B, m * groups, P + n]
        for place, name in enumerate(self.names):
            self.request.set_input_tensor(place, ov.Tensor(np.ascontiguousarray(given[name]), shared_memory=True))
        run(self.request)
        keys, values, features, best, confidences = (self.request.get_output_tensor(i).data.copy() for i in range(5))
        return EagleOutput(keys, values, features, best if self.vocab_ids is None else self.vocab_ids[best], confidences)


def _layer(weights: EagleWeights, embedded: Any, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Build the layer: (keys [B, kv, n, D], values [B, kv, n, D], outputs [B, m, H]) of embedded tokens [B, n, H]."""
    kv_heads, head_dim, size = weights.num_kv_heads, weights.head_dim, weights.hidden_size
    x = linear(ops.concat([embedded, inputs["features"]], -1), weights.fc)
    positions = inputs["positions"]
    keys = ops.transpose(_reshaped(linear(x, weights.k_proj), 0, 0, kv_heads, head_dim), ops.constant([0, 2, 1, 3]))
    keys = _rotated(weights, keys, ops.unsqueeze(positions, ops.constant(np.array([1, 3]))))
    values = ops.transpose(_reshaped(linear(x, weights.v_proj), 0, 0, kv_heads, head_dim), ops.constant([0, 2, 1, 3]))
    rows = ops.constant(np.int64(0))
    chosen = ops.gather(_reshaped(x, -1, size, special_zero=False), inputs["queries"], rows)
    at = ops.gather(_reshaped(positions, -1, special_zero=False), inputs["queries"], rows)
    groups = weights.num_heads // kv_heads
    queries = _reshaped(linear(chosen, weights.q_proj / np.float32(head_dim**0.5)), 0, 0, kv_heads, groups, head_dim)
    queries = _rotated(weights, queries, ops.unsqueeze(at, ops.constant(np.array([2, 3, 4]))))
    queries = _reshaped(ops.transpose(queries, ops.constant([0, 2, 1, 3, 4])), 0, 0, -1, head_dim)  # [B, kv, m * groups, D]
    mixed = _reshaped(_attention(queries, keys, values, inputs), 0, kv_heads, -1, groups, head_dim)
    mixed = _reshaped(ops.transpose(mixed, ops.constant([0, 2, 1, 3, 4])), 0, 0, weights.num_heads * head_dim)
    x = ops.add(chosen, linear(mixed, weights.o_proj))
    return keys, values, ops.add(x, _mlp(weights, x))


def _attention(queries: Any, keys: Any, values: Any, inputs: dict[str, Any]) -> Any:
    """Attention of queries [B, kv, m * groups, D] over the cached entries and over keys and values [B, kv, n, D], in the shape of the
    queries. The two parts stay separate, because joining them would copy the whole cache."""
    parts = [(inputs["past_keys"], inputs["past_values"]), (keys, values)]
    scores = ops.concat([ops.matmul(queries, key, False, True) for key, _ in parts], -1)
    shares = ops.softmax(ops.add(scores, ops.unsqueeze(inputs["mask"], ops.constant(1))), -1)
    lengths = [ops.gather(ops.shape_of(key), ops.constant(np.array([2])), ops.constant(0)) for key, _ in parts]
    split = ops.variadic_split(shares, ops.constant(-1), ops.concat(lengths, 0))
    return ops.add(*(ops.matmul(split.output(i), value, False, False) for i, (_, value) in enumerate(parts)))


def _mlp(weights: EagleWeights, x: Any) -> Any:
    mean = ops.reduce_mean(ops.multiply(x, x), ops.constant(-1), True)
    normed = ops.divide(x, ops.sqrt(ops.add(mean, ops.constant(np.float32(weights.norm_eps)))))
    normed = ops.multiply(normed, ops.constant(weights.norm))
    return linear(ops.multiply(ops.swish(linear(normed, weights.gate_proj)), linear(normed, weights.up_proj)), weights.down_proj)


def _rotated(weights: EagleWeights, x: Any, positions: Any) -> Any:
    """Rotary embeddings, with the halves ordered as in transformers' Llama; positions have the rank of x and size 1 in the last axis."""
    half = weights.head_dim // 2
    frequencies = weights.rope_theta ** -(np.arange(half) / half)
    angles = ops.multiply(positions, ops.constant(np.tile(frequencies, 2).astype(np.float32)))
    first, second = ops.split(x, ops.constant(-1), 2).outputs()
    turned = ops.concat([ops.negative(second), first], -1)
    return ops.add(ops.multiply(x, ops.cos(angles)), ops.multiply(turned, ops.sin(angles)))


def _reshaped(x: Any, *shape: int, special_zero: bool = True) -> Any:
    """Reshape x; with `special_zero`, 0 keeps an axis."""
    return ops.reshape(x, ops.constant(np.array(shape, np.int64)), special_zero)
