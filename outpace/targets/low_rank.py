"""Low-rank weights beside the MLP of every layer, which act on mask tokens only.

For a mask token the MLP, which maps x to y, returns y + (x down) up instead (LoRA, 2106.09685; gated as in 2507.11851). All other tokens
keep their values bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError

MAX_RANK = 64


@dataclass(frozen=True)
class LowRank:
    """down [layers, H, rank] and up [layers, rank, H], float32."""

    down: Array
    up: Array

    @classmethod
    def of(cls, down: Array, up: Array, hidden_size: int) -> LowRank:
        """Check the shapes and convert to float32. Raises BadInputError if they do not match each other or the model."""
        is_pair = down.ndim == 3 == up.ndim and up.shape == (down.shape[0], down.shape[2], down.shape[1]) and down.shape[0] > 0
        if not is_pair or down.shape[1] != hidden_size or not 1 <= down.shape[2] <= MAX_RANK or {down.dtype.kind, up.dtype.kind} != {"f"}:
            shapes = f"{list(down.shape)} and {list(up.shape)}"
            raise BadInputError(f"down and up must be [layers, {hidden_size}, rank] and [layers, rank, {hidden_size}], not {shapes}")
        return cls(np.ascontiguousarray(down, np.float32), np.ascontiguousarray(up, np.float32))

    @property
    def num_layers(self) -> int:
        """Number of layers, which is that of the model."""
        return len(self.down)

    @property
    def content(self) -> bytes:
        """Bytes that identify these weights."""
        return self.down.tobytes() + self.up.tobytes()
