"""Sum up what dev/vllm/compare.py has written, against plain decoding of the same prompts.

usage: python dev/vllm/summary.py RESULTS.json > docs/results/vllm.json

"identical" counts the answers that have plain decoding's tokens. Times are those of the machine, busy or not; passes are exact.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEPT = ("tokens", "passes", "draft_tokens", "preemptions", "draft_microseconds", "hook_microseconds")


def plain_of(name: str) -> str:
    """The part with the texts to compare with: of the first prompts, if it has more of them."""
    if name in ("plain", "preempted"):
        return "together plain"
    return f"{name.partition(' ')[0]} plain" if name.startswith(("alone", "together")) else f"{name.removesuffix(' plain')} plain"


def row(name: str, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One part, summed up."""
    part, plain = parts[name], parts.get(plain_of(name), {"answers": []})
    pairs = list(zip(part["answers"], plain["answers"], strict=False))
    found = {"part": name, "prompts": len(part["answers"]), **{key: part[key] for key in KEPT}}
    found["identical"] = sum(a == b for a, b in pairs) if pairs else None
    if part.get("texts"):
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
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    everything: dict[str, dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    json.dump([row(name, everything) for name in everything], sys.stdout, indent=1)
