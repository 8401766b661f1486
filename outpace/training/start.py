"""Training that continues from earlier heads of the same shape, such as those that come with outpace, on other texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.shipped import shipped
from outpace.targets.identity import Base
from outpace.training.base_model import frequent_tokens
from outpace.training.data.shards import Rows

SHIPPED = "shipped"


@dataclass(frozen=True)
class Start:
    """The start of a run: earlier heads, or None for the initial weights of its kind."""

    heads: DraftHeads | None = None

    @classmethod
    def of(cls, name: str | None, kind: str, base: Base) -> Start:
        """Read the heads in the folder `name`, or for SHIPPED those that come with outpace. Raises BadInputError if there are none or they
        are of another kind or model."""
        if name is None:
            return cls()
        folder = shipped(kind, base) if name == SHIPPED else Path(name)
        if folder is None:
            raise BadInputError(f"no {kind} heads for {base.name} come with outpace; train without --start-from first")
        heads = DraftHeads.from_pretrained(folder, base)
        if heads.kind != kind:
            raise BadInputError(f"the heads in {folder} are of kind {heads.kind}, not {kind}")
        return cls(heads)

    def vocab_ids(self, rows: Rows, size: int | None) -> Array | None:
        """The reduced vocabulary: that of the earlier heads, or else the `size` most frequent tokens of the rows; None for all tokens."""
        return self.heads.tensors.get("vocab_ids") if self.heads else frequent_tokens(rows, size)

    @property
    def record(self) -> dict[str, Any]:
        """The entry about the earlier heads in the record of the new ones."""
        return {"earlier": self.heads.training} if self.heads else {}

    def load_into(self, module: torch.nn.Module) -> None:
        """Load the earlier weights into `module`. Raises BadInputError if names or shapes differ."""
        if self.heads is None:
            return
        weights = {name: torch.from_numpy(tensor).float() for name, tensor in self.heads.tensors.items() if name != "vocab_ids"}
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:  # its first line only names the class
            difference = str(error).splitlines()[-1].strip()
            raise BadInputError(f"--start-from has heads of another shape; use the same settings: {difference}"[:400]) from error
