"""An empty cache, and a default model to fetch."""

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of our own."""
    folder = tmp_path / "cache with space"
    monkeypatch.setenv("OUTPACE_HOME", str(folder))
    return folder
