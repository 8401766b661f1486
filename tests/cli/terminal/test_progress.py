"""What the person who waits is told, with and without a terminal."""

import io
import threading
import time

import pytest
from rich.console import Console

from outpace import progress
from outpace.progress import byte_meter, follow_files


def test_without_a_terminal_long_work_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0.0)
    assert list(progress.track("abcd", 4, "prompts")) == list("abcd")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["prompts: 25% 1 of 4", "prompts: 50% 2 of 4", "prompts: 75% 3 of 4"]
    assert lines[3:] == ["prompts: 100% in 0 s"]


def test_work_that_fails_is_never_at_100_percent(capsys, monkeypatch):
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0.0)

    def work() -> None:
        with progress.meter("training", 4) as show:
            show(1, "of 4")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert capsys.readouterr().err == "training: 25% of 4\n"


@pytest.mark.parametrize("kind", ["track", "meter", "byte_meter"])
def test_a_bar_ends_full(monkeypatch, kind):
    text = io.StringIO()
    monkeypatch.setattr(progress, "stderr", lambda: Console(file=text, force_terminal=True, width=100, color_system=None))
    if kind == "track":
        assert list(progress.track("abcd", 4, "prompts")) == list("abcd")
        assert "4/4" in text.getvalue()
    elif kind == "meter":
        with progress.meter("training", 10) as show:
            show(4, "of 10")
        assert "\u2501" * 20 in text.getvalue()
    else:
        with byte_meter("fetching x", 2_000_000) as show:
            show(1_000_000)
        assert "2.0/2.0 MB" in text.getvalue()


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_slow_work_says_what_it_is(capsys, monkeypatch, seconds):
    monkeypatch.setattr(progress, "SLOW_SECONDS", 0.1)
    with progress.slow("loading x ..."):
        time.sleep(seconds)
    assert capsys.readouterr().err == ("loading x ...\n" if seconds else "")


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
    assert capsys.readouterr().err == "fetching x: 50% of 2 MB\nfetching x: 100% in 0 s\n"


def test_a_note_is_broken_between_words_at_a_terminal(monkeypatch):
    text = "a note that is longer than the terminal is wide, with /a/path/that-is-never-broken-though-it-has-hyphens"

    def noted(is_terminal: bool) -> str:
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda: is_terminal)
        monkeypatch.setattr(progress.sys, "stderr", out)
        progress.note(text)
        return out.getvalue()

    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    *lines, last = noted(True).splitlines()
    assert " ".join([*lines, last]) == text
    assert max(map(len, lines)) <= 30
    assert last == "/a/path/that-is-never-broken-though-it-has-hyphens"
    assert noted(False) == f"{text}\n"
