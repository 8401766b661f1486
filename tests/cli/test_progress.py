"""What the person who waits is told where no terminal draws bars."""

from outpace import progress


def test_without_a_terminal_long_work_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0.0)
    assert list(progress.track("abcd", 4, "prompts")) == list("abcd")
    assert "prompts: 50% 2 of 4" in capsys.readouterr().err.splitlines()


def test_short_work_says_nothing(capsys):
    assert list(progress.track(range(3), 3, "prompts")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
