"""Tokens a step of medusa heads against the tokens they were trained on: the same held-out texts, ever more training texts, one epoch each.

usage: python dev/training/acceptance_by_tokens.py SHARDS OUT.json OUT.svg [SHARE …]
       python dev/training/acceptance_by_tokens.py OUT.json OUT.svg      (draws the figures of an earlier run)

SHARDS are captured rows (`outpace train … --out RUN` leaves them in RUN/shards). A SHARE of the training texts is a fraction such as 1/16;
without any: 1/16 1/4 1, about 12 minutes for a million tokens on two cores. Shares that OUT.json already has are not trained again.
The files of the documents are docs/results/trained/acceptance_by_tokens.json and docs/pictures/acceptance-by-tokens.svg.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from outpace.arrays import Array
from outpace.files import write_whole
from outpace.training.base_model import LMHeadWeights, frequent_tokens
from outpace.training.data.shards import Rows
from outpace.training.loop import LoopSettings, train
from outpace.training.loss import FrozenHead
from outpace.training.medusa.module import MedusaSettings
from outpace.training.medusa.run import DRAFT_NODES, measure
from outpace.training.medusa.task import MedusaTask
from outpace.training.stages import check_rows, split

SHARES = ("1/16", "1/4", "1")
HEADS, LOOP = MedusaSettings(), LoopSettings(epochs=1)
LINES = {"acceptance_best": "the likeliest paths of each step", "acceptance_fixed": "the same tree in every step"}


def first_texts(rows: Rows, chosen: Array, share: Fraction) -> Array:
    """Those of the rows to train on, `chosen` [n], that belong to the first texts: smaller shares are parts of larger ones.

    Captured texts are in an order that depends on their ids alone, so the first ones are of all sources.
    """
    texts = np.searchsorted(rows.starts, chosen, side="right")
    distinct = np.unique(texts)
    last = distinct[max(1, round(share * len(distinct))) - 1]
    return chosen[texts <= last]


def point(rows: Rows, head: FrozenHead, chosen: Array, held_out: list[Array]) -> dict[str, Any]:
    """Train heads on these rows; what they cost and what they are worth."""
    task, start = MedusaTask(rows, chosen, np.concatenate(held_out), head, HEADS), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        num_steps = train(task, LOOP, Path(folder))
    seconds = time.monotonic() - start
    task.calibrate()
    _, worth = measure(task, rows, held_out)
    return {"num_tokens": len(chosen), "num_steps": num_steps, "seconds": round(seconds, 1), "held_out": asdict(worth)}


def begun(path: Path, head: dict[str, Any]) -> dict[str, Any]:
    """The document so far, or an empty one. Stops when it is of other rows or settings."""
    if not path.exists():
        return {**head, "points": {}}
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if {name: document.get(name) for name in head} != head:
        raise SystemExit(f"{path} was measured with other rows or settings; choose another file")
    return document


def draw(document: dict[str, Any], path: Path) -> None:
    """Both ways to draw a tree from the heads, over training tokens on a logarithmic axis."""
    points = sorted(document["points"].values(), key=lambda found: found["num_tokens"])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in LINES.items():
        axes.plot([found["num_tokens"] for found in points], [found["held_out"][name] for found in points], "o-", label=label)
    sizes = [found["num_tokens"] for found in points]
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("tokens trained on, each once")
    axes.set_ylabel(f"tokens per step, {DRAFT_NODES} draft tokens")
    axes.set_title(f"medusa heads of {document['data']['name']}, held-out answers", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same figures give the same file
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Train with every share that is missing; write after each one."""
    if len(sys.argv) == 3:
        draw(json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))
        return
    if len(sys.argv) < 4:
        raise SystemExit("usage: python dev/training/acceptance_by_tokens.py SHARDS OUT.json OUT.svg [SHARE …]")
    shards, out, picture = map(Path, sys.argv[1:4])
    shares = sys.argv[4:] or SHARES
    rows, weights = Rows(shards), LMHeadWeights.of("tiny")
    check_rows(rows, weights.base, shards)
    chosen, held_out = split(rows)
    head = weights.frozen(frequent_tokens(rows, HEADS.num_draft_vocab), torch.device("cpu"))
    document = begun(out, {"data": asdict(rows.index.origin), "heads": asdict(HEADS), "loop": asdict(LOOP), "guesses": DRAFT_NODES})
    for share in shares:
        if share not in document["points"]:
            document["points"][share] = point(rows, head, first_texts(rows, chosen, Fraction(share)), held_out)
            write_whole(out, json.dumps(document, indent=2))
    draw(document, picture)


if __name__ == "__main__":
    main()
