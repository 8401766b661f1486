"""The record inside the folder of a distilled draft model: which model it was made from, and how. Nothing that runs it needs the record."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from outpace.targets.identity import Base

RECORD = "outpace.json"


@dataclass(frozen=True)
class DraftRecord:
    """`base` is the teacher, `settings` the shape of the draft model, `training` data, steps and figures."""

    base: Base
    settings: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the record into the folder of the draft model."""
        (folder / RECORD).write_text(json.dumps({"kind": "draft_model", **asdict(self)}, indent=2) + "\n", "utf-8")
