"""Time and peak memory of making a .gguf file ready, and the time of a pass by its tokens.

usage: python dev/measure/load_cost.py MODEL.gguf PRECISION... [--widths 2 4 8 16] [--groups 64]

Every conversion is a process of its own. Passes stand behind 256 tokens; the settings take turns, and medians are told.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from outpace.targets.openvino import target as targets
from outpace.tree.segment import Segment

CONTEXT, ROUNDS, REPEATS = 256, 3, 12


def convert(source: Path, folder: Path, precision: str) -> None:
    """Convert, and say what it took."""
    folder.mkdir()
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "outpace.models.gguf", str(source), str(folder), precision], check=True, capture_output=True)
    took, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    size = (folder / "model.bin").stat().st_size / 1e9
    print(f"{source.stem} {precision}: converted in {took:.1f} s, peak {peak:.2f} GB so far, {size:.2f} GB", flush=True)  # noqa: T201


def open_target(folder: Path, group: str) -> targets.OpenVINOTarget:
    """The target with activations quantised by groups of this size."""
    facts = json.loads((folder / "config.json").read_text("utf-8"))
    targets.QUANTIZATION_GROUP = group
    sizes = {"vocab_size": facts["vocab_size"], "max_len": min(facts["max_len"], 2048)}
    begun = time.perf_counter()
    target = targets.OpenVINOTarget(folder / "model.xml", kv_cache_tokens=4096, **sizes)
    print(f"{folder.name}, group {group}: ready in {time.perf_counter() - begun:.1f} s, least tokens {target.sizes.min_tokens}", flush=True)  # noqa: T201
    return target


def pass_times(target: targets.OpenVINOTarget, widths: list[int]) -> dict[int, list[float]]:
    """Milliseconds of passes behind a context, by width."""
    tokens = np.random.default_rng(0).integers(5, target.capabilities.vocab_size - 5, CONTEXT).tolist()
    slot = target.allocate(CONTEXT + max(widths))
    target.forward([Segment(slot, tokens, wants_output=False)])
    target.accept(slot, tokens, range(CONTEXT))
    found: dict[int, list[float]] = {}
    for width in widths:
        target.recent_sizes.clear()
        times = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            target.forward([Segment(slot, tokens[:width])])
            times.append(1000 * (time.perf_counter() - begun))
        found[width] = times[2:]  # the first ones prepare buffers
    target.free(slot)
    return found


def main() -> None:
    """Parse the arguments, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("precisions", nargs="+")
    parser.add_argument("--widths", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--groups", nargs="+", default=["64"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / precision for precision in options.precisions]
        for folder in folders:
            convert(options.model, folder, folder.name)
        opened = {(folder.name, group): open_target(folder, group) for folder in folders for group in options.groups}
        times: dict[tuple[str, str], dict[int, list[float]]] = {key: {} for key in opened}
        for _ in range(ROUNDS):
            for key, target in opened.items():
                for width, more in pass_times(target, options.widths).items():
                    times[key].setdefault(width, []).extend(more)
    for (precision, group), found in times.items():
        cells = "  ".join(f"{width}: {statistics.median(found[width]):.1f}" for width in options.widths)
        print(f"{precision}, group {group}: ms of a pass by tokens  {cells}")  # noqa: T201


if __name__ == "__main__":
    main()
