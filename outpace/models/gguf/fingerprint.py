"""The fingerprint of targets/identity.py for a GGUF file: the same digits, without torch and without reading all parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from outpace.arrays import Array
from outpace.models.gguf.names import Parameter
from outpace.targets.identity import NUM_SAMPLES


def fingerprint_of(parameters: Iterable[Parameter]) -> str:
    """16 hex digits, hashed from the names, the shapes and evenly spaced values (rounded to bfloat16) of the parameters, sorted by name."""
    digest = hashlib.sha256()
    for parameter in sorted(parameters, key=lambda item: item.name):
        digest.update(f"{parameter.name} {parameter.tensor.shape} ".encode())
        digest.update(_bfloat16(_samples(parameter)).tobytes())
    return digest.hexdigest()[:16]


def _samples(parameter: Parameter) -> Array:
    """Every n-th value of a parameter, in row-major order: float32."""
    tensor = parameter.tensor
    size = int(np.prod(tensor.shape))
    places = np.arange(0, size, -(-size // NUM_SAMPLES))
    if parameter.order is not None:
        width = size // tensor.shape[0]
        places = parameter.order[places // width] * width + places % width
    return tensor.values(places)


def _bfloat16(values: Array) -> Array:
    """Values rounded to bfloat16 (ties to even), returned as float32."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)).astype(np.uint64) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)
