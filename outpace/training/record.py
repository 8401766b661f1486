"""The metrics of a training run: metrics.jsonl, TensorBoard by option, and a picture of the curves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from outpace.errors import OutpaceError
from outpace.files import write_whole
from outpace.progress import note

METRICS, CURVES = "metrics.jsonl", "curves.png"


class Record:
    """Writes the metrics of a run to `folder`, one JSON object per line. Lines after step `first`, left by an interrupted run, are
    removed."""

    def __init__(self, folder: Path, first: int, tensorboard: bool):
        check_tensorboard(tensorboard)
        path = folder / METRICS
        rows = [row for row in read_metrics(folder) if row["step"] <= first]
        write_whole(path, "\n".join(map(json.dumps, rows))) if rows else path.unlink(missing_ok=True)
        self.file, self.start = path.open("a", encoding="utf-8"), time.monotonic()
        self.writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()

    def add(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Add a line: the metrics after `step` steps, and the seconds since the run, or its resumption, began."""
        row = {"step": step, "epoch": epoch, "seconds": round(time.monotonic() - self.start, 3), **figures}
        self.file.write(json.dumps(row) + "\n")
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all buffered lines to the file."""
        self.file.flush()


def check_tensorboard(wanted: bool) -> None:
    """Raise OutpaceError if TensorBoard is wanted but not installed."""
    if wanted and find_spec("tensorboard") is None:
        raise OutpaceError("--tensorboard needs the package tensorboard; run: pip install tensorboard")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's metrics; empty if there is no file."""
    path = folder / METRICS
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def draw_curves(folder: Path) -> None:
    """Draw the metrics of a run to curves.png: loss above, accuracies below. Without matplotlib it only prints a note."""
    if find_spec("matplotlib") is None:
        note("curves.png is not drawn; it needs matplotlib: pip install matplotlib")
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    rows = read_metrics(folder)
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "epoch", "seconds", "learning_rate"))
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes, style = (upper if "loss" in name else lower), "o--" if name.startswith("held_out") else "-"
        axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "), linewidth=1, markersize=4)
    for axes, label in ((upper, "loss"), (lower, "accuracy")):
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    lower.set_xlabel("steps")
    figure.savefig(folder / CURVES, dpi=110)
