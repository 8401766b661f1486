"""The identity of a model: a fingerprint of its weights that is the same for every backend and precision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError

NUM_SAMPLES = 256  # values of each parameter that go into the fingerprint


@dataclass(frozen=True)
class Base:
    """The model that trained heads belong to. `fingerprint` (`fingerprint_of`) identifies its weights for every backend and precision."""

    name: str
    fingerprint: str
    hidden_size: int
    vocab_size: int

    def check(self, other: Base) -> None:
        """Raise BadInputError unless heads trained for this model also fit `other`."""
        for size in ("hidden_size", "vocab_size"):
            if getattr(self, size) != getattr(other, size):
                mine, theirs = getattr(self, size), getattr(other, size)
                raise BadInputError(f"they were made for {self.name} with {size} {mine}, but {other.name} has {theirs}")
        if self.fingerprint != other.fingerprint:
            raise BadInputError(
                f"they were made for {self.name} ({self.fingerprint}), "
                f"but this model is {other.name} with other weights ({other.fingerprint})"
            )


def fingerprint_of(parameters: Iterable[tuple[str, Any]]) -> str:
    """Hash of a model's named torch parameters, 16 hex digits: names, shapes and evenly spread values, rounded to bfloat16.

    A model therefore has the same fingerprint in float32 and in bfloat16, on every device. Parameters without data (device `meta`)
    contribute their names and shapes only.
    """
    return fingerprint_of_samples((name, tuple(parameter.shape), _samples(parameter)) for name, parameter in parameters)


def _samples(parameter: Any) -> Array:
    if parameter.device.type == "meta" or not parameter.numel():
        return np.empty(0, np.float32)
    values = parameter.detach().reshape(-1)
    samples: Array = values[:: -(-len(values) // NUM_SAMPLES)].float().cpu().numpy()
    return samples


def fingerprint_of_samples(parameters: Iterable[tuple[str, tuple[int, ...], Array]]) -> str:
    """`fingerprint_of` for (name, shape, samples float32) of each parameter; the samples are every n-th value, NUM_SAMPLES at most."""
    digest = hashlib.sha256()
    for name, shape, samples in sorted(parameters, key=itemgetter(0)):
        digest.update(f"{name} {shape} ".encode())
        digest.update(to_bfloat16(samples).tobytes())
    return digest.hexdigest()[:16]


def to_bfloat16(values: Array) -> Array:
    """float32 values rounded to the nearest bfloat16, ties to even; still float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), np.float32(np.nan), rounded.view(np.float32))


def base_of(model: Any, name: str) -> Base:
    """The identity of a loaded transformers model, under the given name; the sizes are those of its LM head."""
    vocab_size, hidden_size = model.get_output_embeddings().weight.shape
    return Base(name, fingerprint_of(model.named_parameters()), hidden_size, vocab_size)
