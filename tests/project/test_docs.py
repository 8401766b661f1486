"""The documents are executed: code blocks run, commands exist, generated pages are current."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from test_architecture import LEVELS, MAX_FOLDER

from outpace import __version__
from outpace.cli import app
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import check_specs, create_drafter
from outpace.errors import BadInputError
from outpace.outputs import RequestOutput
from outpace.request import RequestStats
from outpace.targets.toy import ToyTarget

ROOT = Path(__file__).parents[2]
ARCHITECTURE, TUTORIAL = ROOT / "docs" / "architecture.md", ROOT / "docs" / "drafters" / "write-a-drafter.md"
TEN_MINUTES = ROOT / "docs" / "learn" / "ten-minutes.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "dev").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block for found, block in fences if found == language]


@pytest.fixture
def script(monkeypatch) -> Callable[[str], ModuleType]:
    """Loads a script of dev/, which finds the scripts beside it."""

    def load(path: str) -> ModuleType:
        place = ROOT / "dev" / path
        monkeypatch.syspath_prepend(place.parent)
        spec = importlib.util.spec_from_file_location(place.stem, place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_command_page_is_current(script):
    module = script("pictures/docs_cli.py")
    assert module.page() == module.OUT.read_text("utf-8"), "run: python dev/pictures/docs_cli.py"


@pytest.mark.parametrize("name", ["results", "peers_table", "tables/temperature_tables"])
def test_tables_are_those_of_the_measured_documents(script, name):
    for path, text in script(f"measure/{name}.py").pages().items():
        assert text == path.read_text("utf-8"), f"{path.name} is not current; run: python dev/measure/{name}.py"


@pytest.mark.parametrize("name", ["results", "peers_table", "tables/temperature_tables"])
def test_measuring_writes_no_page(script, monkeypatch, name):
    """One command writes all pages, afterwards."""
    module, asked = script(f"measure/{name}.py"), []
    monkeypatch.setattr(module, "measure", lambda *what: asked.append(what))
    monkeypatch.setattr(module, "pages", lambda: pytest.fail("pages are made"))
    monkeypatch.setattr(sys, "argv", ["script", "measure", "all"])
    module.main()
    assert len(asked) == 1


def test_temperatures_are_shown_side_by_side(script, monkeypatch, tmp_path):
    module = script("measure/tables/temperature_tables.py")
    settings = {"precision": "int8", "num_prompts": 2, "max_tokens": 8, "concurrency": 8, "temperature": [0.0, 0.8], "prompts": "builtin"}
    common = {"category": "all", "num_identical": 6, "num_prompts": 6, "speedup": 1.25, "tokens_per_step": 2, "lowest": 1.5, "highest": 2.5}
    rows = [{**common, "drafter": "auto", "temperature": value, "num_seeds": seeds} for value, seeds in ((0.0, 1), (0.8, 3))]
    document = {"model": "m", "settings": settings, "machine": {"cores": 2, "cpu": "c"}, "temperatures": rows}
    (tmp_path / "eight.json").write_text(json.dumps(document), "utf-8")
    monkeypatch.setattr(module, "STORE", tmp_path)
    (text,) = module.pages().values()
    assert "| `auto` | 1.25 | 2.00 | 1.25 | 2.00 (1.50 to 2.50) |" in text
    assert "2 prompts 8 at once, 8 tokens each, 3 seeds above temperature 0, 2 cores of c; 12 of 12 answers identical" in text
    assert f"`{module.command('eight')}`" in text


def test_the_picture_of_the_ten_minutes_is_that_of_its_example(script):
    module = script("pictures/pictures_ten_minutes.py")
    assert module.picture() == module.OUT.read_text("utf-8"), "run: python dev/pictures/pictures_ten_minutes.py"


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "dev" / "pictures" / "measured").glob("*.json")))
def test_pictures_of_speeds_have_the_words_of_their_documents(script, monkeypatch, tmp_path, name):
    """They are drawn from what was measured; places and shapes may differ with the version of the library that draws."""
    pytest.importorskip("matplotlib")
    module = script("pictures/pictures.py" if name == "demo" else f"pictures/pictures_{name}.py")
    kept = module.OUT.read_text("utf-8")
    monkeypatch.setattr(module, "OUT", tmp_path / "picture.svg")
    module.draw(module.document(name))
    words = [re.findall(r"<text[^>]*>([^<]*)<", text) for text in (kept, module.OUT.read_text("utf-8"))]
    assert words[0] == words[1], f"run: python dev/pictures/{Path(module.__file__).name}"
    assert words[0]


def test_the_picture_of_the_demo_is_drawn_from_what_was_stored(script, monkeypatch, tmp_path):
    module = script("pictures/pictures.py")
    stats = RequestStats(num_steps=2, decode_started_at=1.0, finished_at=2.0)
    output = RequestOutput("a\nb", [1, 2], [False, True], ["a\n", "b"], "stop", [7], "none", 0, stats)
    stored = json.loads(json.dumps(asdict(module.short(output))))
    assert module.output_of(stored) == replace(output, prompt_token_ids=[])
    monkeypatch.setattr(module, "OUT", tmp_path / "demo.svg")
    module.draw({"comparisons": [{"title": "Two lines", "plain": stored, "fast": stored}]})
    picture = module.OUT.read_text("utf-8")
    assert "Two&#160;lines" in picture
    assert "2.0&#160;tokens/s" in picture


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "pictures").rglob("*.svg")), ids=lambda path: path.stem)
def test_pictures_load_nothing_from_elsewhere(picture):
    assert not re.findall(r"(?:url\(|href=|src=)['\"]?https?:[^)\s]*", picture.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist(page):
    """Every `outpace …` line names a command and options it takes."""
    commands = typer.main.get_command(app).commands
    lines = [line for block in blocks(page, "") for line in block.splitlines() if line.startswith("outpace ")]
    for line in lines:
        name, *words = shlex.split(line, comments=True)[1:]
        if name in ("|", "--help", "--install-completion"):
            continue
        command = commands[name]
        if hasattr(command, "commands") and words:  # outpace train medusa
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page):
    """To a file that exists, and to a heading of it where the link names one."""
    for in_markdown, in_html in re.findall(r"\]\(([^):]+)\)|(?:src|href)=\"([^\":]+)\"", page.read_text("utf-8")):
        target = in_markdown or in_html
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in headings(file), f"{page.name} links to {target}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture
def tutorial(tmp_path, monkeypatch) -> Path:
    """A folder with the two files of docs/drafters/write-a-drafter.md, as the current folder."""
    source, check = blocks(TUTORIAL, "python")
    (tmp_path / "echo_drafter.py").write_text(source, "utf-8")
    (tmp_path / "check_echo.py").write_text(check, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path
    sys.modules.pop("echo_drafter", None)


def test_the_drafter_of_the_tutorial(tutorial, monkeypatch):
    """It is short, passes the conformance suite, and is found in the current folder by its spec."""
    code = (tutorial / "echo_drafter.py").read_text("utf-8").split("class ", 1)[1].splitlines()
    assert len([line for line in code if line.strip()]) <= 20
    subprocess.run([sys.executable, "check_echo.py"], check=True)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".", str(tutorial))])  # as in the script `outpace`
    drafter = create_drafter("echo_drafter:EchoDrafter:length=2", DrafterContext(ToyTarget()))
    assert drafter.length == 2


def test_a_module_that_is_nowhere_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(BadInputError, match="cannot import"):
        create_drafter("echo_drafter_of_nobody:EchoDrafter", DrafterContext(ToyTarget()))
    assert sys.path == before


@pytest.mark.real
def test_the_commands_of_the_tutorial(tutorial):
    """As typed, in a folder with nothing but the drafter; -P: like the script `outpace`, without the current folder on sys.path."""
    lines = [line for block in blocks(TUTORIAL, "") for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        command = re.sub(r"^outpace ", f"{shlex.quote(sys.executable)} -P -m outpace ", line)
        subprocess.run(command, shell=True, check=True)


def test_paths_on_the_architecture_page_exist():
    paths = re.findall(r"`((?:outpace|tests|dev|docs)/[\w/.-]+)`", ARCHITECTURE.read_text("utf-8"))
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert missing <= {f"outpace/{room}.py" for rooms in LEVELS for room in rooms}  # rooms that have a place already


def test_rooms_on_the_architecture_page_are_those_of_the_arrows():
    table = ARCHITECTURE.read_text("utf-8").split("## The rooms", 1)[1].split("##", 1)[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert [sorted(re.findall(r"`outpace/(\w+)", cell)) for cell in cells] == [sorted(rooms) for rooms in LEVELS]


def test_folders_of_the_documentation_are_small():
    for folder in [ROOT / "docs", *(path for path in (ROOT / "docs").rglob("*") if path.is_dir())]:
        names = [path.name for path in folder.iterdir() if path.is_file()]
        assert len(names) <= MAX_FOLDER, f"{folder.relative_to(ROOT)} has {len(names)} files"


def test_the_ten_minutes_print_what_they_show():
    """Each block of output is that of the Python block before it; the blocks run one after the other."""
    names: dict[str, object] = {}
    printed, shown = "", 0
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", TEN_MINUTES.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for language, block in fences:
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block, TEN_MINUTES.name, "exec"), names)
            printed = output.getvalue()
        elif language == "text":
            assert printed == block
            shown += 1
    assert shown == 4


def test_drafters_on_the_page_of_choices_exist():
    """The second column of its table: drafters, in backticks; NAME stands for a model."""
    table = (ROOT / "docs" / "learn" / "choosing-a-drafter.md").read_text("utf-8").split("## By what you do", 1)[1].split("##", 1)[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "drafter" not in line.split("|")[2]]
    specs = [spec for cell in cells for spec in re.findall(r"(?<!\[)`([^`]+)`", cell)]
    assert len(specs) > 6
    for spec in specs:
        check_specs(spec)


def test_environment_variables_are_those_of_the_source():
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "outpace").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.\w+\(|\[)\s*['\"](\w+)['\"]", source))
    table = (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8").split("These are read by libraries", 1)[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == read


def test_the_citation_names_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_every_page_is_on_the_index_and_in_the_site():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in site] == [], "add the page to the menu in mkdocs.yml"
    missing = [page for page in pages if page not in index and page not in ("index.md", "results/peers/README.md")]
    assert missing == [], "add the page to a table of docs/index.md"


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_is_built_without_a_warning(tmp_path):
    """In strict mode: every link and anchor leads somewhere, every page is in the menu, every docstring of the reference is found."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SpeculativeConfig" in (tmp_path / "site" / "reference" / "python" / "index.html").read_text("utf-8")
    page = (tmp_path / "site" / "vllm" / "index.html").read_text("utf-8")
    assert "JSON (<code>docs/results/vllm.json</code>)" in page  # documents are not part of the site, so no link leads to them
    assert 'href="../results/vllm.json"' not in page


@pytest.mark.real
@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "quickstart.md"], ids=lambda page: page.name)
def test_python_in_the_documents_runs(page):
    source = "\n".join(blocks(page, "python"))
    assert source
    exec(compile(source, page.name, "exec"), {})
