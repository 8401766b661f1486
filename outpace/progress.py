"""Progress on stderr: notes, spinners and bars. Results go to stdout, so that they can be piped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

T = TypeVar("T")
NOTE_SECONDS = 30.0  # interval between lines of a long task without a terminal


def stderr() -> Console:
    """A console on the current stderr."""
    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Print one line on stderr."""
    stderr().print(text, style="dim", markup=False)


@contextmanager
def byte_meter(label: str, total: int) -> Iterator[Callable[[float], None]]:
    """A bar of bytes with speed and time left; call with the bytes so far. Without a terminal, a line every half minute."""
    console = stderr()
    if not console.is_terminal:
        with meter(label, total) as show:
            yield lambda done: show(done, f"of {total / 1e6:.0f} MB")
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=int(done))


@contextmanager
def follow_files(folder: Path, tell: Callable[[float], None]) -> Iterator[None]:
    """While other code writes into a folder, tell the size of its largest file, in bytes, a few times a second."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.25):
            tell(max((_size(path) for path in folder.rglob("*")), default=0))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _size(path: Path) -> int:
    """Bytes of a file that may disappear at any time."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Iterate with a bar that shows the count and the time left; without a terminal, print a line every half minute."""
    if not stderr().is_terminal:
        with meter(label, total) as show:
            for count, item in enumerate(items, 1):
                yield item
                show(count, f"{count} of {total}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)


@contextmanager
def stages(label: str) -> Iterator[Callable[[str], None]]:
    """A spinner that names the current stage; without a terminal, one line per stage."""
    console = stderr()
    if not console.is_terminal:
        yield lambda stage: note(f"{label}: {stage}")
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda stage: progress.update(task, description=f"{label}: {stage}")


@contextmanager
def meter(label: str, total: float, done: float = 0.0) -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left; call it with (amount done of the total, detail). Without a terminal, a line every half minute."""
    console = stderr()
    if not console.is_terminal:
        last = time.monotonic()

        def tell(done: float, detail: str) -> None:
            nonlocal last
            if time.monotonic() - last >= NOTE_SECONDS:
                last = time.monotonic()
                note(f"{label}: {done / max(total, 1):.0%} {detail}")

        yield tell
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total, completed=int(done))
        yield lambda done, detail: progress.update(task, completed=done, description=f"{label}: {detail}")


class _TimeLeft(ProgressColumn):
    """The seconds left of the task's total."""

    def render(self, task: Task) -> Text:
        return Text(f"{max(0.0, (task.total or 0.0) - (task.elapsed or 0.0)):.0f} s left", style="progress.remaining")


@contextmanager
def countdown(seconds: float) -> Iterator[Callable[[str, str], None]]:
    """A bar for a time limit; call it with (stage, detail). Without a terminal, one line per stage."""
    console = stderr()
    if not console.is_terminal:
        stages_seen = set[str]()

        def tell(stage: str, detail: str) -> None:
            if stage not in stages_seen:
                stages_seen.add(stage)
                note(stage)

        yield tell
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), _TimeLeft())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=seconds)

        def show(stage: str, detail: str) -> None:
            progress.update(task, description=f"{stage}: {detail}", completed=progress.tasks[0].elapsed or 0.0)

        yield show
