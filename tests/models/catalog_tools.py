"""A catalog of one small model, whose pieces a stand-in for pip delivers."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outpace.errors import BadInputError, OutpaceError
from outpace.models import fetch, store
from outpace.models.catalog import CATALOG, CatalogModel
from outpace.models.sources import pieces

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


def keep_two(pip: Pip) -> Path:
    """A download that stopped in front of the third piece; returns its folder."""
    pip.fail["some-part3==1.0"] = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(MODEL)
    pip.fail.clear()
    pip.asked.clear()
    return store.partial("small")
