"""Progress on stderr: notes, spinners and bars. Results go to stdout, so that they can be piped.

rich is imported when something is shown: a start that shows nothing must not wait for it.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task, TaskID
    from rich.text import Text

T = TypeVar("T")
NOTE_SECONDS = 30.0  # interval between lines of a long task without a terminal
SLOW_SECONDS = 2.0  # work shorter than this says nothing


def stderr() -> Console:
    """A console on the current stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Print one line on stderr, broken between words where a terminal is too narrow for it."""
    dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    if sys.stderr.isatty():
        wrapper = textwrap.TextWrapper(shutil.get_terminal_size().columns, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(map(wrapper.fill, text.split("\n")))
    sys.stderr.write(f"\x1b[2m{text}\x1b[0m\n" if dim else f"{text}\n")
    sys.stderr.flush()


@contextmanager
def byte_meter(label: str, total: int) -> Iterator[Callable[[float], None]]:
    """A bar of bytes with speed and time left; call with the bytes so far. Without a terminal, a line every half minute."""
    console = stderr()
    if not console.is_terminal:
        with _lines(label, total) as show:
            yield lambda done: show(done, f"of {total / 1e6:.0f} MB")
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    with _bar(columns, console, label, total) as (progress, task):
        yield lambda done: progress.update(task, completed=int(done))


@contextmanager
def _bar(
    columns: Sequence[ProgressColumn], console: Console, label: str, total: float, done: float = 0.0
) -> Iterator[tuple[Progress, TaskID]]:
    """A bar that is full for a moment when the work has ended well, and then gone."""
    from rich.progress import Progress

    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total, completed=int(done))
        yield progress, task
        progress.update(task, completed=total, refresh=True)


@contextmanager
def _lines(label: str, total: float) -> Iterator[Callable[[float, str], None]]:
    """A line every half minute, from the first half minute on, and one at the end of work that ended well."""
    started = last = time.monotonic()

    def tell(done: float, detail: str) -> None:
        nonlocal last
        if time.monotonic() - last >= NOTE_SECONDS and done < total:
            last = time.monotonic()
            note(f"{label}: {done / max(total, 1):.0%} {detail}")

    yield tell
    if last > started:
        note(f"{label}: 100% in {time.monotonic() - started:.0f} s")


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
    console = stderr()
    if not console.is_terminal:
        with _lines(label, total) as show:
            for count, item in enumerate(items, 1):
                yield item
                show(count, f"{count} of {total}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with _bar(columns, console, label, total) as (progress, task):
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
    with _spinner(console) as progress:
        task = progress.add_task(label, total=None)
        yield lambda stage: progress.update(task, description=f"{label}: {stage}")


@contextmanager
def meter(label: str, total: float, done: float = 0.0) -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left; call it with (amount done of the total, detail). Without a terminal, a line every half minute."""
    console = stderr()
    if not console.is_terminal:
        with _lines(label, total) as show:
            yield show
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn())
    with _bar(columns, console, label, total, done) as (progress, task):
        yield lambda done, detail: progress.update(task, completed=done, description=f"{label}: {detail}")


def _spinner(console: Console) -> Progress:
    """A spinner beside a label and the time so far."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


@contextmanager
def slow(label: str) -> Iterator[None]:
    """Work whose length is not known: says what it is if it takes longer than SLOW_SECONDS. On a terminal a spinner, which is gone at the
    end; otherwise one line."""
    started: list[Progress] = []

    def spin() -> None:
        progress = _spinner(stderr())
        progress.add_task(label, total=None)
        progress.start()
        started.append(progress)

    timer = threading.Timer(SLOW_SECONDS, spin if sys.stderr.isatty() else lambda: note(label))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for progress in started:
            progress.stop()


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
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

    class TimeLeft(ProgressColumn):
        """The seconds left of the task's total."""

        def render(self, task: Task) -> Text:
            from rich.text import Text

            return Text(f"{max(0.0, (task.total or 0.0) - (task.elapsed or 0.0)):.0f} s left", style="progress.remaining")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TimeLeft())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=seconds)

        def show(stage: str, detail: str) -> None:
            progress.update(task, description=f"{stage}: {detail}", completed=progress.tasks[0].elapsed or 0.0)

        yield show
