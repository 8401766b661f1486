"""Measure the torch target on a GPU in one run of under 8 minutes, on a machine without network; on the CPU in small sizes.

usage: PYTHONPATH=. python dev/gpu_bench.py [--model FILE_OR_FOLDER] [--seconds 450] [--only pass_cost,decoding] [--out gpu.json]
       python dev/gpu_bench.py --cpu [--seconds 60]      the same code on the CPU: sizes are small, figures mean nothing
       python dev/gpu_bench.py --split FOLDER            the default small model in pieces of at most 48 MiB, to carry it there
       python dev/gpu_bench.py --page gpu.json           write a result into docs/gpu.md

FOLDER with pieces is a `--model`, too. Without a model random weights of the same shape are used, and said so. Sections run in order; one
that finds no time left is left out, one that fails is recorded with its error, and the exit code is then 1. What is done is written to
--out after each section. Needs torch, transformers and pytest; `gguf` to read the small model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu import sections
from gpu.machine import about
from gpu.page import write_page
from gpu.pieces import joined, split
from gpu.setting import Setting

ROOT = Path(__file__).parents[1]
SECTIONS: dict[str, tuple[float, Callable[[Setting], Any]]] = {  # name -> (least seconds it needs on a GPU, what it does)
    "pass_cost": (60, sections.pass_cost),
    "decoding": (90, sections.decoding_speed),
    "tests": (60, sections.run_tests),
    "simulation": (70, sections.simulation),
    "training": (40, sections.train_head),
}
CPU_SHARE = 0.05  # of those seconds that small sizes need


def run(setting: Setting, names: list[str], out: Path | None) -> dict[str, Any]:
    """The result of all sections. `setting.deadline` is a time of time.monotonic."""
    document: dict[str, Any] = {"machine": about(setting.device), "is_cpu": setting.is_cpu, "sections": {}}
    for name in names:
        least, section = SECTIONS[name]
        started, left = time.monotonic(), setting.deadline - time.monotonic()
        if left < least * (CPU_SHARE if setting.is_cpu else 1):
            document["sections"][name] = {"left_out": f"{left:.0f} s left"}
        else:
            try:
                document["sections"][name] = {"result": section(setting)}
            except Exception as error:
                traceback.print_exc()
                document["sections"][name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        document["sections"][name]["seconds"] = round(time.monotonic() - started, 1)
        sys.stderr.write(f"{name}: {json.dumps(document['sections'][name])[:400]}\n")
        if out is not None:
            out.write_text(json.dumps(document, indent=1), "utf-8")
    return document


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with one line and exit code 2 for what would fail after minutes on a lent machine."""
    if unknown := [name for name in options.only.split(",") if name not in SECTIONS]:
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {unknown[0]!r}")
    if options.model and not options.model.exists():
        parser.error(f"there is no {options.model}")
    if options.out and not options.out.absolute().parent.is_dir():
        parser.error(f"there is no folder for {options.out}")
    if not options.cpu and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --cpu runs small sizes on the CPU")


def main() -> int:
    """Returns the exit code: 1 if a section failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=450.0)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    if options.split:
        sys.stdout.write("".join(f"{piece}\n" for piece in split(options.split)))
        return 0
    if options.page:
        write_page(ROOT / "docs" / "gpu.md", json.loads(options.page.read_text("utf-8")))
        return 0
    check(parser, options)
    os.environ.setdefault("OUTPACE_HOME", tempfile.mkdtemp())  # costs are measured anew
    model = joined(options.model) if options.model else None
    setting = Setting("cpu" if options.cpu else "cuda", model, time.monotonic() + options.seconds)
    document = run(setting, options.only.split(","), options.out)
    sys.stdout.write(json.dumps(document) + "\n")
    return int(any("error" in section for section in document["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
