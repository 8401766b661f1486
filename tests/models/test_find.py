"""Where a model is, and what its fingerprint follows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_tools import model_folder

from outpace.errors import BadInputError
from outpace.models import find as models
from outpace.models.catalog import NAMES
from outpace.models.find import fingerprint, locate, source_of
from outpace.models.precision import auto_precision

pytestmark = pytest.mark.usefixtures("cache")


def test_locate_a_folder_and_a_file(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "my model")
    (tmp_path / "small.Q4_0.gguf").write_bytes(b"GGUF")
    assert locate(str(folder)) == models.Source("my model", folder)
    assert locate(str(tmp_path / "small.Q4_0.gguf")) == models.Source("small.Q4_0", tmp_path / "small.Q4_0.gguf")
    monkeypatch.chdir(tmp_path)
    for name in ("./my model", "my model", "my model/"):
        assert locate(name).path == folder
    assert locate("small.Q4_0.gguf").path == tmp_path / "small.Q4_0.gguf"
    monkeypatch.chdir(folder)
    assert locate(".") == models.Source("my model", folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/my model").path == folder


def nothing_but_the_error(name: str, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        locate(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.gguf", "there is no file nowhere.gguf"),
        ("a/b/c.gguf", "there is no file a/b/c.gguf"),
        ("empty", "empty has no config.json, so it is not a model folder"),
        (".", "has no config.json"),
        ("nonsense", f"no model 'nonsense': not one of {', '.join(NAMES)}, not a folder or .gguf file, and not a hub id such as org/name"),
        ("Default", "no model 'Default'"),
        ("a/b/c", "no model 'a/b/c'"),
        ("./a/b", "no model './a/b'"),
        ("/nowhere/at/all", "no model '/nowhere/at/all'"),
        ("/nowhere", "no model '/nowhere'"),
        ("file.txt", "no model 'file.txt'"),
        ("https://huggingface.co/org/name", "no model 'https://huggingface.co/org/name'"),
        ("folder.gguf", "there is no file folder.gguf"),
    ],
)
def test_wrong_names(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "file.txt").write_text("x")
    nothing_but_the_error(name, message)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "x" * 5000])
def test_names_that_no_path_can_have(name):
    nothing_but_the_error(name, "no model")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_offline(hub, capsys):
    nothing_but_the_error("org/name", "no model 'org/name' here, and the hub could not give it: ")
    assert "fetching org/name from the hub" in capsys.readouterr().err
    for name in ("org/na me", "-org/name", "org/" + "x" * 200):
        nothing_but_the_error(name, f"no model {name!r}")


def test_hub_offline_by_the_environment(tmp_path):
    """As a user sets it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    code = "from outpace.models.find import locate; locate('org/name')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "BadInputError: no model 'org/name' here, and the hub could not give it" in done.stderr.splitlines()[-1]


def snapshot(hub: Path, *files: str) -> Path:
    """A model in the hub's cache."""
    root = hub / "models--org--name"
    folder = root / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    for file in files:
        (folder / file).write_text("{}")
    return folder


def test_a_hub_id_that_is_here(hub):
    folder = snapshot(hub, "config.json", "tokenizer.json", "model.safetensors")
    assert locate("org/name") == models.Source("org/name", folder)


def test_half_a_download_of_the_hub_is_not_a_model(hub):
    snapshot(hub, "config.json")
    nothing_but_the_error("org/name", "the hub could not give it")


# ---- fingerprints


def test_a_fingerprint_follows_the_files(tmp_path):
    folder = model_folder(tmp_path / "m", a=1)
    seen = [fingerprint(folder)]

    def changed() -> None:
        seen.append(fingerprint(folder))
        assert seen[-1] == fingerprint(folder)
        assert len(set(seen)) == len(seen)

    (folder / "model.safetensors").write_bytes(bytes(99) + b"\1")  # same size
    changed()
    (folder / "model.safetensors").write_bytes(bytes(101))
    changed()
    (folder / "config.json").write_text(json.dumps({"a": 2}))
    changed()
    (folder / "tokenizer.json").write_text("{}")
    changed()
    (folder / "chat_template.jinja").write_text("x")
    changed()
    (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
    changed()
    (folder / "README.md").write_text("x")
    assert fingerprint(folder) == seen[-1]
    assert fingerprint(model_folder(tmp_path / "n", a=1)) == seen[0]  # wherever it is


def test_a_large_file_counts_by_size_and_time(tmp_path):
    folder = model_folder(tmp_path / "m")
    large = folder / "model.safetensors"
    large.write_bytes(bytes(2 << 20))
    os.utime(large, ns=(1, 1))
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    os.utime(large, ns=(1, 2))
    assert fingerprint(folder) != before
    assert fingerprint(large) != before
    assert fingerprint(large) == fingerprint(large)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.txt"])
def test_tokenizer_files_of_older_models_count(tmp_path, name):
    folder = model_folder(tmp_path / "m")
    (folder / name).write_text("a b")
    before = fingerprint(folder)
    (folder / name).write_text("b a")
    assert fingerprint(folder) != before


def test_the_precision_of_a_folder_named_like_a_catalog_model_follows_the_folder(tmp_path, monkeypatch):
    assert auto_precision(source_of("coder-1.5b")) == "int4"
    model_folder(tmp_path / "coder-1.5b")
    monkeypatch.chdir(tmp_path)
    assert auto_precision(source_of("coder-1.5b")) == "int8"
