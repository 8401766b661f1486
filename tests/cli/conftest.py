"""Files for commands, and a cache that nothing may be fetched into."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A working folder with good and bad files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00abc")
    (tmp_path / "empty").write_text("")
    (tmp_path / "blank").write_text(" \n\t")
    (tmp_path / "good.jsonl").write_text('{"prompt": "abc abc abc"}\n{"prompt": "hello", "category": "qa"}\n{"turns": ["x", "y"]}\n')
    (tmp_path / "bad.jsonl").write_text('{"prompt": "abc"}\n{bad\n')
    (tmp_path / "text.json").write_text("nope")
    (tmp_path / "unknown.json").write_text('{"methd": "blind"}')
    (tmp_path / "number.json").write_text('{"method": 5}')
    (tmp_path / "list.json").write_text('["blind"]')
    (tmp_path / "good.json").write_text('{"method": "blind", "num_draft_tokens": 3}')
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def loaded(llm, monkeypatch):
    """Commands use the default model that is loaded already."""
    monkeypatch.setattr("outpace.cli.options.loading.Loading.llm", lambda *_: llm)
    yield llm
    assert llm.engine.scheduler.running == []


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    """What other programs do on this machine must not decide about a test."""
    monkeypatch.setattr("outpace.machine._clocks", lambda: None)
