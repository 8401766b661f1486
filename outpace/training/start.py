"""Training that goes on from an earlier helper of the same shape, such as the one that comes with outpace, on other text."""

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
    """What a run begins with: an earlier helper, or None for the weights that its kind begins with."""

    helper: DraftHeads | None = None

    @classmethod
    def of(cls, name: str | None, kind: str, base: Base) -> Start:
        """The helper in the folder `name`, or for SHIPPED the one that comes with outpace. Raises BadInputError for one of another kind
        or model, and where there is none."""
        if name is None:
            return cls()
        folder = shipped(kind, base) if name == SHIPPED else Path(name)
        if folder is None:
            raise BadInputError(f"no {kind} helper for {base.name} comes with outpace; train one without --start-from first")
        helper = DraftHeads.from_pretrained(folder, base)
        if helper.kind != kind:
            raise BadInputError(f"the helper in {folder} is of kind {helper.kind}, not {kind}")
        return cls(helper)

    def vocab_ids(self, rows: Rows, size: int | None) -> Array | None:
        """The reduced vocabulary: the earlier helper's, or else the `size` most frequent tokens of the rows; None for all tokens."""
        return self.helper.tensors.get("vocab_ids") if self.helper else frequent_tokens(rows, size)

    @property
    def record(self) -> dict[str, Any]:
        """What the new helper's record says of the earlier one."""
        return {"earlier": self.helper.training} if self.helper else {}

    def load_into(self, module: torch.nn.Module) -> None:
        """Give `module` the earlier weights. Raises BadInputError where names or shapes differ."""
        if self.helper is None:
            return
        weights = {name: torch.from_numpy(tensor).float() for name, tensor in self.helper.tensors.items() if name != "vocab_ids"}
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:  # its first line only names the class
            difference = str(error).splitlines()[-1].strip()
            raise BadInputError(f"--start-from has a helper of another shape; use the same settings: {difference}"[:400]) from error
