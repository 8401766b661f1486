"""The identity of a model: a fingerprint of its weights that is the same for every backend and precision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        if parameter.device.type != "meta" and parameter.numel():
            values = parameter.detach().reshape(-1)
            digest.update(values[:: -(-len(values) // NUM_SAMPLES)].bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def base_of(model: Any, name: str) -> Base:
    """The identity of a loaded transformers model, under the given name; the sizes are those of its LM head."""
    vocab_size, hidden_size = model.get_output_embeddings().weight.shape
    return Base(name, fingerprint_of(model.named_parameters()), hidden_size, vocab_size)
