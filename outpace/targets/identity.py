"""Which model is this? A fingerprint of the weights that does not depend on what runs them, nor in what precision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from outpace.errors import BadInputError

NUM_SAMPLES = 256  # values of each parameter that count


@dataclass(frozen=True)
class Base:
    """The model that a helper belongs to: `fingerprint` names the weights (helpers/identity.py), whatever runs them in what precision."""

    name: str
    fingerprint: str
    hidden_size: int
    vocab_size: int

    def check(self, other: Base) -> None:
        """Raise BadInputError unless a helper for this model also serves `other`."""
        for size in ("hidden_size", "vocab_size"):
            if getattr(self, size) != getattr(other, size):
                mine, theirs = getattr(self, size), getattr(other, size)
                raise BadInputError(f"it was made for {self.name} with {size} {mine}, but {other.name} has {theirs}")
        if self.fingerprint != other.fingerprint:
            raise BadInputError(
                f"it was made for {self.name} ({self.fingerprint}), but this model is {other.name} with other weights ({other.fingerprint})"
            )


def fingerprint_of(parameters: Iterable[tuple[str, Any]]) -> str:
    """16 hex digits for the named torch parameters of a model: names, shapes and evenly spread values, rounded to bfloat16.

    So a model has one fingerprint, loaded in float32 or in bfloat16, on any device. Of parameters that are not in memory (`meta`) only
    names and shapes count.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        if parameter.device.type != "meta" and parameter.numel():
            values = parameter.detach().reshape(-1)
            digest.update(values[:: -(-len(values) // NUM_SAMPLES)].bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def base_of(model: Any, name: str) -> Base:
    """What a live transformers model is, called `name`; its sizes are those of its LM head."""
    vocab_size, hidden_size = model.get_output_embeddings().weight.shape
    return Base(name, fingerprint_of(model.named_parameters()), hidden_size, vocab_size)
