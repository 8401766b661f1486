"""Graph edit on an OpenVINO model: ids above the vocabulary are looked up in a table of vectors that is an input of the model.

The table is an input, not a constant, so new vectors need no recompilation. The embeddings of ordinary tokens stay bit-identical.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino.opset13 as ops

from outpace.targets.low_rank import LowRank
from outpace.targets.openvino.graphs import add_input
from outpace.targets.openvino.low_rank import add_low_rank
from outpace.targets.vectors import NUM_VECTORS

VECTORS = "vectors"  # name of the input [NUM_VECTORS, H] float32
GATES = "gates"  # [NUM_VECTORS] int32, 1 for vectors that low-rank weights act on
PASSED_ON = ("Unsqueeze", "Convert", "Reshape", "Squeeze")  # allowed between the ids and their lookup


def add_vectors(model: Any, vocab_size: int, low_rank: LowRank | None = None) -> int:
    """Make ids from `vocab_size` upwards select rows of a new input, VECTORS, and return their size H.

    Returns 0 and changes nothing if the model does not look its ids up in one table. With `low_rank` weights, a further input, GATES,
    marks the rows that they act on.
    """
    found = _lookups(model.input("input_ids").get_node())
    if len(found) != 1:
        return 0
    (lookup,) = found
    size = lookup.input_value(0).get_partial_shape()[1].get_length()
    ids, readers = lookup.input_value(1), list(lookup.output(0).get_target_inputs())
    dtype = ids.get_element_type().to_dtype()
    table = add_input(model, VECTORS, [NUM_VECTORS, size], np.float32)
    first = ops.constant(np.array(vocab_size, dtype))
    lookup.input(1).replace_source_output(ops.minimum(ids, ops.constant(np.array(vocab_size - 1, dtype))).output(0))
    places = ops.maximum(ops.subtract(ids, first), ops.constant(np.array(0, dtype)))
    vectors = ops.convert_like(ops.gather(table, places, ops.constant(np.int64(0))), lookup.output(0))
    is_vector, last = ops.greater_equal(ids, first), ops.constant(np.int64(-1))
    chosen = ops.select(ops.unsqueeze(is_vector, last), vectors, lookup.output(0))
    for reader in readers:
        reader.replace_source_output(chosen.output(0))
    if low_rank:
        gates = add_input(model, GATES, [NUM_VECTORS], np.int32)
        is_gated = ops.greater(ops.gather(gates, places, ops.constant(np.int64(0))), ops.constant(np.int32(0)))
        add_low_rank(model, ops.unsqueeze(ops.logical_and(is_vector, is_gated), last), low_rank)
    return int(size)


def _lookups(node: Any) -> list[Any]:
    """The Gather nodes that read rows of a matrix by the output of this node."""
    found = []
    for reader in node.output(0).get_target_inputs():
        other = reader.get_node()
        if other.get_type_name() in PASSED_ON and reader.get_index() == 0:
            found += _lookups(other)
        elif other.get_type_name() == "Gather" and reader.get_index() == 1 and len(other.input_value(0).get_partial_shape()) == 2:
            found.append(other)
    return found
