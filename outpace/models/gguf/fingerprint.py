"""The fingerprint of targets/identity.py for a GGUF file: the same digits, without torch and without reading all parameters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from outpace.arrays import Array
from outpace.models.gguf.names import Parameter
from outpace.targets.identity import NUM_SAMPLES, fingerprint_of_samples


def fingerprint_of(parameters: Iterable[Parameter]) -> str:
    """As `outpace.targets.identity.fingerprint_of`."""
    return fingerprint_of_samples((entry.name, tuple(entry.tensor.shape), _samples(entry)) for entry in parameters)


def _samples(parameter: Parameter) -> Array:
    """Every n-th value of a parameter, in row-major order: float32."""
    tensor = parameter.tensor
    size = int(np.prod(tensor.shape))
    places = np.arange(0, size, -(-size // NUM_SAMPLES))
    if parameter.order is not None:
        width = size // tensor.shape[0]
        places = parameter.order[places // width] * width + places % width
    return tensor.values(places)
