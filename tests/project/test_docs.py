"""The documents are executed: code blocks run, commands exist, generated pages are current."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from outpace.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block for found, block in fences if found == language]


def test_command_page_is_current():
    spec = importlib.util.spec_from_file_location("docs_cli", ROOT / "dev" / "pictures" / "docs_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == module.OUT.read_text("utf-8"), "run: python dev/pictures/docs_cli.py"


def test_tables_are_those_of_the_measured_documents():
    spec = importlib.util.spec_from_file_location("results", ROOT / "dev" / "measure" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.pages().items():
        assert text == path.read_text("utf-8"), f"{path.name} is not current; run: python dev/measure/results.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist(page):
    """Every `outpace …` line names a command and options it takes."""
    commands = typer.main.get_command(app).commands
    lines = [line for block in blocks(page, "") for line in block.splitlines() if line.startswith("outpace ")]
    for line in lines:
        name, *words = shlex.split(line)[1:]
        if name in ("|", "--help"):
            continue
        command = commands[name]
        if hasattr(command, "commands") and words:  # outpace train medusa
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_drafter_of_the_tutorial(tmp_path, monkeypatch):
    """docs/write-a-drafter.md: its class passes the conformance suite and is found by its spec."""
    source, check = blocks(ROOT / "docs" / "write-a-drafter.md", "python")
    code = [line for line in source.split("class ", 1)[1].splitlines() if line.strip()]
    assert len(code) <= 20
    (tmp_path / "echo_drafter.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        exec(compile(source + check, "write-a-drafter.md", "exec"), {})
        result = CliRunner().invoke(app, ["generate", "", "--drafter", "echo_drafter:EchoDrafter:length=2"])
        assert result.exit_code == 2
        from outpace.drafters.base import DrafterContext
        from outpace.drafters.spec import create_drafter
        from outpace.targets.toy import ToyTarget

        assert create_drafter("echo_drafter:EchoDrafter:length=2", DrafterContext(ToyTarget())).length == 2
    finally:
        sys.modules.pop("echo_drafter", None)


@pytest.mark.real
@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "quickstart.md"], ids=lambda page: page.name)
def test_python_in_the_documents_runs(page):
    source = "\n".join(blocks(page, "python"))
    assert source
    exec(compile(source, page.name, "exec"), {})
