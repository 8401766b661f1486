"""What the person who waits is told, with and without a terminal."""

import io
import threading
import time

from rich.console import Console

from outpace import progress
from outpace.progress import byte_meter, follow_files


def test_without_a_terminal_long_work_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0.0)
    assert list(progress.track("abcd", 4, "prompts")) == list("abcd")
    assert "prompts: 50% 2 of 4" in capsys.readouterr().err.splitlines()


def test_short_work_says_nothing(capsys):
    assert list(progress.track(range(3), 3, "prompts")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_files_that_grow_are_followed(tmp_path):
    told: list[float] = []
    seen = threading.Event()

    def tell(size: float) -> None:
        told.append(size)
        if size == 300:
            seen.set()

    with follow_files(tmp_path, tell):
        (tmp_path / "small").write_bytes(bytes(10))
        (tmp_path / "inside").mkdir()
        (tmp_path / "inside" / "large").write_bytes(bytes(300))
        assert seen.wait(10)
    count = len(told)
    assert told[-1] == 300
    time.sleep(0.3)
    assert len(told) == count  # it is over


def test_a_bar_of_bytes(monkeypatch, capsys):
    with byte_meter("fetching x", 2_000_000) as show:
        show(1_000_000)
    assert capsys.readouterr().err == ""  # without a terminal, a line every half minute
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0.0)
    with byte_meter("fetching x", 2_000_000) as show:
        show(1_000_000)
    assert capsys.readouterr().err == "fetching x: 50% of 2 MB\n"
    text = io.StringIO()
    monkeypatch.setattr(progress, "stderr", lambda: Console(file=text, force_terminal=True, width=80, color_system=None))
    with byte_meter("fetching x", 2_000_000) as show:
        show(1_000_000)
    assert "1.0/2.0 MB" in text.getvalue()
