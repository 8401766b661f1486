"""Write docs/results.md from a benchmark document. usage: python dev/results.py out.json   (made by outpace bench --json out.json)"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COMMAND = "outpace bench --prompts question_even.jsonl --limit 48 --drafters none,blind,prompt_lookup --max-tokens 128 --json out.json"
WHAT = "(the even questions of Spec-Bench, 8 of each category; drafters interleaved prompt by prompt; decoding only)."
OUT = Path(__file__).parent.parent / "docs" / "results.md"


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    machine, settings = document["machine"], document["settings"]
    cost = document["verify_cost"]
    parts = [
        f"# Results\n\nWritten by `python dev/results.py out.json` from one run of\n\n```\n{COMMAND}\n```\n\n{WHAT}",
        f"{document['model']} {settings['precision']}, {machine['cores']} cores of {machine['cpu']}, OpenVINO {machine['openvino']}, "
        f"temperature {settings['temperature']:g}, at most {settings['max_tokens']} tokens. "
        "The machine is noisy to 15%: trust the ratios.",
        _table(
            ["rows in a pass", *(str(entry["num_tokens"]) for entry in cost)], [["ms", *(f"{entry['milliseconds']:.1f}" for entry in cost)]]
        ),
    ]
    rows = [
        [
            row["drafter"],
            row["category"],
            f"{row['tokens_per_second']:.1f}",
            f"{row['mean_acceptance_length']:.2f}",
            f"{row['speedup']:.2f}",
            f"{row['num_identical']}/{row['num_prompts']}",
        ]
        for row in document["results"]
    ]
    parts.append(_table(["drafter", "category", "tokens/s", "tokens a step", "speedup", "identical"], rows))
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    OUT.write_text(page(json.loads(Path(sys.argv[1]).read_text("utf-8"))), "utf-8")
