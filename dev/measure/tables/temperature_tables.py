"""The README's tables of drafters at several temperatures, from the documents in docs/results/temperatures/.

usage: python dev/measure/tables/temperature_tables.py                   writes the tables; a test checks that they match the documents
       python dev/measure/tables/temperature_tables.py measure [all]     runs `outpace bench` for the missing documents or for all, about
                                                                        10 minutes
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
STORE = ROOT / "docs" / "results" / "temperatures"
USUAL = (
    "--model tiny --prompts builtin --limit 24 --max-tokens 64 --drafters recycling,suffix+recycling,medusa,auto "
    "--temperature 0,0.8 --seeds 3"
)
RUNS = {"single": USUAL, "eight": f"{USUAL} --concurrency 8"}  # document -> options of outpace bench
PLACE = re.compile(r"<!-- temperatures -->.*?<!-- end of temperatures -->", re.DOTALL)


def table(document: dict[str, Any]) -> str:
    """Drafters down, temperatures across: speedup over plain decoding at the same temperature, and tokens per step with the lowest and the
    highest seed."""
    rows = {(row["drafter"], row["temperature"]): row for row in document["temperatures"] if row["category"] == "all"}
    temperatures = document["settings"]["temperature"]
    head = ["drafter", *(f"{what} at {value:g}" for value in temperatures for what in ("speedup", "tokens per step"))]
    lines = [head, ["---"] * len(head)]
    for drafter in dict.fromkeys(name for name, _ in rows):
        cells = [cell for value in temperatures for cell in _cells(rows[drafter, value])]
        lines.append([f"`{drafter}`", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: dict[str, Any]) -> list[str]:
    spread = f" ({row['lowest']:.2f} to {row['highest']:.2f})" if row["num_seeds"] > 1 else ""
    return [f"{row['speedup']:.2f}", f"{row['tokens_per_step']:.2f}{spread}"]


def about(name: str, document: dict[str, Any]) -> str:
    """What was measured, and how many answers were those of plain decoding."""
    settings, machine = document["settings"], document["machine"]
    rows = [row for row in document["temperatures"] if row["category"] == "all"]
    same, count = (sum(row[key] for row in rows) for key in ("num_identical", "num_prompts"))
    at_once = settings.get("concurrency", 1)
    together = "one at a time" if at_once == 1 else f"{at_once} at once"
    return (
        f"{document['model']} {settings['precision']}, {settings['num_prompts']} prompts {together}, {settings['max_tokens']} tokens each, "
        f"{max(row['num_seeds'] for row in rows)} seeds above temperature 0, {machine['cores']} cores of {machine['cpu']}; "
        f"{same} of {count} answers identical to plain decoding with the same seed. `{command(name)}`"
    )


def command(name: str) -> str:
    """The command that measures a document."""
    return f"outpace bench {RUNS[name]}"


def pages() -> dict[Path, str]:
    """The README with the tables of today's documents; without documents, without them."""
    parts = []
    for name in RUNS:
        if (path := STORE / f"{name}.json").exists():
            document = json.loads(path.read_text("utf-8"))
            parts += [about(name, document), table(document)]
    heading = ["### Greedy and sampled"] if parts else []
    block = "\n\n".join(["<!-- temperatures -->", *heading, *parts, "<!-- end of temperatures -->"])
    return {ROOT / "README.md": PLACE.sub(lambda _: block, (ROOT / "README.md").read_text("utf-8"))}


def measure(is_anew: bool) -> None:
    """Run what is missing, or everything."""
    STORE.mkdir(parents=True, exist_ok=True)
    for name in RUNS:
        out = STORE / f"{name}.json"
        if is_anew or not out.exists():
            print(command(name), flush=True)  # noqa: T201
            subprocess.run([sys.executable, "-m", *shlex.split(command(name)), "--json", str(out)], check=True)


def main() -> None:
    """Measure, or write the tables."""
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2:] == ["all"])
        return
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
