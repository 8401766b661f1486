"""The record in the folder of a distilled draft model: its teacher and its training. It is for people; running the model ignores it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from outpace.targets.identity import Base

RECORD = "outpace.json"


@dataclass(frozen=True)
class DraftRecord:
    """`base` is the teacher, `settings` the shape of the draft model, `training` its data, steps and metrics."""

    base: Base
    settings: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the record into the folder of the draft model."""
        (folder / RECORD).write_text(json.dumps({"kind": "draft_model", **asdict(self)}, indent=2) + "\n", "utf-8")
