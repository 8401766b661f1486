"""The README's table of outpace beside llama.cpp, from the documents of `outpace bench --peers` in docs/results/peers/.

usage: python dev/measure/peers_table.py        writes the table; a test checks that it matches the documents
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "peers"
PLACE = re.compile(r"(<!-- peers -->\n).*?(<!-- end of peers -->)", re.DOTALL)
HEAD = ("model and prompts", "llama.cpp", "best of llama.cpp", "outpace `none`", "outpace `auto`", "best of outpace")


def totals(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows over all prompts, by the name of the side."""
    return {row.get("drafter") or row["peer"]: row for row in rows if row["category"] == "all"}


def row(document: dict[str, Any]) -> list[str]:
    """The cells of one document: tokens/s, and what plain decoding of llama.cpp is multiplied by."""
    ours, theirs = totals(document["results"]), totals(document["peers"])
    plain = theirs["llama.cpp:plain"]["tokens_per_second"]
    sides = [theirs["llama.cpp:plain"], _fastest(theirs), ours["none"], ours["auto"], _fastest(ours)]
    return [_title(document), *(_cell(side, plain) for side in sides)]


def _title(document: dict[str, Any]) -> str:
    count = totals(document["results"])["none"]["num_prompts"]
    return f"{document['model']}, {count} of `{document['settings']['prompts']}`"


def _fastest(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return max(rows.values(), key=lambda row: row["tokens_per_second"])


def _cell(side: dict[str, Any], plain: float) -> str:
    return f"{side['tokens_per_second']:.0f} ({side['tokens_per_second'] / plain:.2f})"


def page() -> str:
    """The README with the table of today's documents."""
    rows = [HEAD, ["---"] * len(HEAD), *(row(json.loads(path.read_text("utf-8"))) for path in sorted(STORE.glob("*.json")))]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return PLACE.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", (ROOT / "README.md").read_text("utf-8"))


if __name__ == "__main__":
    (ROOT / "README.md").write_text(page(), "utf-8")
