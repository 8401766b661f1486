"""Sum up what dev/vllm/compare.py has written, against plain decoding of the same prompts.

usage: python dev/vllm/summary.py RESULTS.json … > docs/results/vllm.json

Slices of one part ("alone suffix/0", "/1", …) are added up. "identical" counts the answers that have plain decoding's tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ADDED = ("tokens", "passes", "draft_tokens", "preemptions")


def joined(files: list[Path]) -> dict[str, dict[str, Any]]:
    """All parts, with their slices in order."""
    found: dict[str, Any] = {}
    for file in files:
        found |= json.loads(file.read_text("utf-8"))
    parts: dict[str, dict[str, Any]] = {}
    for name in sorted(found):
        part = parts.setdefault(name.partition("/")[0], {"answers": [], "texts": [], **dict.fromkeys(ADDED, 0), "microseconds": []})
        part["answers"] += found[name]["answers"]
        part["texts"] += found[name]["texts"] or []
        part["microseconds"].append(found[name]["draft_microseconds"])
        for key in ADDED:
            part[key] += found[name][key]
    return parts


def plain_of(name: str) -> str:
    """The part with the texts to compare with."""
    kind = name.partition(" ")[0]
    if kind in ("alone", "together"):
        return f"{kind} plain"
    if kind == "preempted":
        return "together plain"
    return f"{name.removesuffix(' plain')} plain"


def row(name: str, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One part, summed up."""
    part, plain = parts[name], parts.get(plain_of(name), {"answers": []})
    pairs = list(zip(part["answers"], plain["answers"], strict=False))  # what was preempted are the first of those together
    same = sum(a == b for a, b in pairs) if pairs else None
    found = {"part": name, "prompts": len(part["answers"]), **{key: part[key] for key in ADDED}, "identical": same}
    times = part["microseconds"]
    found["draft_microseconds"] = round(sum(times) / len(times), 1)
    if part["texts"]:
        found["valid_json"] = sum(is_json(text) for text in part["texts"])
    return found


def is_json(text: str) -> bool:
    """Whether a text is whole JSON; answers that the length limit cut off are not."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    everything = joined([Path(name) for name in sys.argv[1:]])
    json.dump([row(name, everything) for name in everything], sys.stdout, indent=1)
