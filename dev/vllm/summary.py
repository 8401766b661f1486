"""Sum up what dev/vllm/compare.py has written, against plain decoding of the same prompts.

usage: python dev/vllm/summary.py RESULTS.json … > docs/results/vllm.json

"identical" counts the answers that have plain decoding's tokens. Times are those of the machine, busy or not; passes are exact.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SUMS, TIMES = ("tokens", "passes", "draft_tokens", "preemptions"), ("draft_microseconds", "hook_microseconds")


def joined(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Parts with their numbered slices added up; times are means of the slices."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(found):
        parts.setdefault(name.partition("/")[0], []).append(found[name])
    return {
        name: {
            "answers": [answer for one in slices for answer in one["answers"]],
            "texts": [text for one in slices for text in one.get("texts") or []],
            **{key: sum(one[key] for one in slices) for key in SUMS},
            **{key: round(sum(one[key] for one in slices) / len(slices), 1) for key in TIMES},
        }
        for name, slices in parts.items()
    }


def plain_of(name: str) -> str:
    """The part with the texts to compare with: of the first prompts, if it has more of them."""
    if name in ("plain", "preempted"):
        return "together plain"
    return f"{name.partition(' ')[0]} plain" if name.startswith(("alone", "together")) else f"{name.removesuffix(' plain')} plain"


def row(name: str, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One part, summed up."""
    part, plain = parts[name], parts.get(plain_of(name), {"answers": []})
    pairs = list(zip(part["answers"], plain["answers"], strict=False))
    found = {"part": name, "prompts": len(part["answers"]), **{key: part[key] for key in (*SUMS, *TIMES)}}
    found["identical"] = sum(a == b for a, b in pairs) if pairs else None
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
    everything: dict[str, dict[str, Any]] = {}
    for file in sys.argv[1:]:
        everything |= json.loads(Path(file).read_text("utf-8"))
    sums = joined(everything)
    json.dump([row(name, sums) for name in sums], sys.stdout, indent=1)
