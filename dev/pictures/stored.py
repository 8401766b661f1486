"""The documents that pictures of speeds are drawn from, so that a picture is drawn anew without measuring anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "measured"


def document(name: str) -> dict[str, Any]:
    """What was measured for a picture."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"{path.name} was not measured yet: run this script with the word measure")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def renew(name: str, measure: Callable[[], dict[str, Any]], arguments: list[str]) -> None:
    """Measure first, if the first argument says so; the machine should do nothing else meanwhile."""
    if arguments[:1] == ["measure"]:
        (FOLDER / f"{name}.json").write_text(json.dumps(measure(), indent=1, ensure_ascii=False) + "\n", "utf-8")
