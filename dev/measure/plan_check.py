"""Measure a load test and a plan on this machine, show one beside the other, and write both into docs/server/scaling.md. Needs a quiet
machine; about five minutes with `tiny`.

usage: python dev/measure/plan_check.py [--model tiny] [--clients 1,4,16] [--seconds 25] [--out docs/results/plan.json]

The exit code is 1 if a row of the plan is off by more than 20%, or an answer under load was not the one given to a single client.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "server" / "scaling.md"
START, END = "<!-- plan -->\n", "<!-- /plan -->"
PRICE = "0.10"  # an hour
OUTPACE = [sys.executable, "-m", "outpace"]


def main() -> None:
    """Run both, and keep the load test inside the plan's document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--seconds", default="25")
    parser.add_argument("--limit", default="24")
    parser.add_argument("--max-tokens", default="128")
    parser.add_argument("--out", type=Path, default=Path("docs/results/plan.json"))
    args = parser.parse_args()
    common = ["--model", args.model, "--prompts", "builtin", "--max-tokens", args.max_tokens]
    with tempfile.TemporaryDirectory() as folder:
        load = Path(folder) / "load.json"
        test = ["bench", "--server", "--drafters", "none,auto", "--clients", args.clients, "--seconds", args.seconds, "--limit", args.limit]
        is_clean = subprocess.run([*OUTPACE, *test, *common, "--json", str(load)]).returncode == 0
        plan = ["plan", "--limit", "12", "--check", str(load), "--json", str(args.out), "--price", PRICE, "--replicas", "1,4"]
        subprocess.run([*OUTPACE, *plan, *common], check=True)
        document = json.loads(args.out.read_text("utf-8"))
        document["load_test"] = json.loads(load.read_text("utf-8"))
    args.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    text = PAGE.read_text("utf-8")
    head, rest = text.split(START)
    PAGE.write_text(head + START + tables(document) + END + rest.split(END)[1], "utf-8")
    sys.exit(0 if is_clean and all(check["is_good"] for check in document["checks"]) else 1)


def tables(document: dict[str, Any]) -> str:
    """The part of the page that shows the measurement."""
    profile, price = document["profile"], PRICE
    where = f"{profile['machine']['cores']} cores of {profile['machine']['cpu']}"
    lines = [f"{profile['model']} on {where}, a machine for {price} an hour, `auto` (`python dev/measure/plan_check.py`):", ""]
    lines += [
        "| machines | clients | plain, tokens/s | with drafts | gain | per million, plain | with drafts |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["plan"]:
        counts = f"| {row['num_replicas']} | {row['num_clients']} | {row['plain']:.0f} | {row['speculative']:.0f} | {row['gain']:.2f} "
        lines.append(f"{counts}| {row['plain_cost']:.2f} | {row['speculative_cost']:.2f} |")
    lines += ["", "The same plan beside a load test of the server on this machine, tokens/s:", ""]
    lines += ["| drafter | clients | planned | measured | error |", "|---" * 5 + "|"]
    for row in document["checks"]:
        lines.append(f"| `{row['drafter']}` | {row['num_clients']} | {row['planned']:.0f} | {row['measured']:.0f} | {row['error']:+.0%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
