"""What is in the wheel and in the source distribution, and what their page says."""

from __future__ import annotations

import email
import importlib.util
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
MAX_WHEEL = 6_000_000  # bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    assert Path(path).stat().st_size < MAX_WHEEL
    return zipfile.ZipFile(path)


def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "dev" / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relative_links(text: str) -> list[str]:
    return re.findall(r"\]\((?!https?://|#|mailto:)([^)]+)\)", text)


def test_the_wheel_has_what_runs_and_no_heads_that_only_tests_need(wheel):
    names = set(wheel.namelist())
    modules = {f"outpace/{path.relative_to(ROOT / 'outpace').as_posix()}" for path in (ROOT / "outpace").rglob("*.py")}
    assert modules <= names
    needed = {"py.typed", "assets/eddystone.txt", "assets/prompts/code.toml", "assets/recycling-smollm2-135m-instruct/model.safetensors"}
    assert {f"outpace/{name}" for name in needed | {"server/static/index.html", "server/static/js/main.js"}} <= names
    assert not [name for name in names if re.search(r"assets/(eagle|medusa)-", name)]
    assert not [name for name in names if not name.startswith(("outpace/", "outpace-"))]


def test_its_page(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    found = email.message_from_bytes(wheel.read(name))
    assert found["Author"] == "The outpace authors"
    assert found["License-Expression"] == "Apache-2.0"
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(found.get_all("Classifier"))
    assert {"convert", "server", "grammar", "train", "bench"} <= set(found.get_all("Provides-Extra"))
    text = found.get_payload()
    assert "make demo" in text
    assert relative_links(text) == []
    assert "<!--" not in text


def test_the_source_distribution_has_the_documents(tmp_path):
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "LICENSE", "README.md", "Makefile", "docs/learn/install.md", "docs/cli.md", "tests/conftest.py"} <= names
    assert {"dev/hatch_build.py", "outpace/assets/eagle-smollm2-135m-instruct/model.safetensors", "CITATION.cff"} <= names
    for page in (name for name in names if name.endswith(".md")):
        for link in relative_links((ROOT / page).read_text("utf-8")):
            linked = (ROOT / page).parent.joinpath(link.partition("#")[0]).resolve()
            assert linked.is_dir() or linked.relative_to(ROOT).as_posix() in names, f"{page} links to {link}"


def test_links_become_absolute_or_words():
    text = "<!-- x -->\n[a](docs/a.md#b), ![p](docs/p.svg), [w](https://w.org/x), [c](#c)\n"
    absolute = hook().absolute
    assert absolute(text, "https://host/o/n") == (
        "[a](https://host/o/n/blob/main/docs/a.md#b), ![p](https://host/o/n/raw/main/docs/p.svg), [w](https://w.org/x), [c](#c)\n"
    )
    assert absolute(text, "") == "a, p, [w](https://w.org/x), [c](#c)\n"
    readme = (ROOT / "README.md").read_text("utf-8")
    assert relative_links(readme)
    assert relative_links(absolute(readme, "https://host/o/n")) == relative_links(absolute(readme, "")) == []


def test_every_extra_is_explained():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "learn" / "install.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page.split("## Extras")[1].split("###")[0], re.MULTILINE) == sorted(extras, key=ORDER.index)


ORDER = ["convert", "server", "grammar", "train", "bench", "scale", "docs", "dev"]
