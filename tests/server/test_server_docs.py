"""The code in docs/server.md runs against a toy server, and the options in deploy/ exist."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main
from server_tools import byte_llm, serving

from outpace.cli import app
from outpace.server import create_app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server.md").read_text("utf-8")
LOCAL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", blocks("python"), ids=range(len(blocks("python"))))
def test_python_blocks_run(monkeypatch, source):
    with serving(create_app(byte_llm(monkeypatch))) as address, contextlib.redirect_stdout(io.StringIO()):
        exec(compile(source.replace(LOCAL, address), "server.md", "exec"), {"__name__": "docs"})


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("source", blocks("bash"))
def test_curl_blocks_answer(make_toy, source):
    with serving(create_app(make_toy())) as address:
        done = subprocess.run(["bash", "-c", source.replace(LOCAL, address)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_the_page_names_every_field_and_option():
    from outpace.server.api.protocol import ChatRequest, CompletionRequest

    fields = {*ChatRequest.model_fields, *CompletionRequest.model_fields} - {"model", "best_of", "suffix"}
    assert [field for field in sorted(fields) if f"`{field}" not in PAGE] == []
    known = {option for parameter in typer.main.get_command(app).commands["serve"].params for option in parameter.opts}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) - known == set()


@pytest.mark.parametrize("name", ["Dockerfile", "outpace.service"])
def test_deployments_use_options_that_exist(name):
    text = "".join(line for line in (ROOT / "deploy" / name).read_text("utf-8").splitlines(True) if not line.startswith("#"))
    known = {option for parameter in typer.main.get_command(app).commands["serve"].params for option in parameter.opts}
    used = re.findall(r"--(?:host|port|api-[a-z-]+|max-[a-z-]+|[a-z]+-timeout)\b", text)
    assert used
    assert set(used) <= known
    assert "OUTPACE_HOME" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_the_unit_is_valid(tmp_path):
    text = (ROOT / "deploy" / "outpace.service").read_text("utf-8")
    unit = tmp_path / "outpace.service"
    unit.write_text(text.replace("/opt/outpace/bin/outpace", shutil.which("true")), "utf-8")  # the program need not be there
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert not [line for line in done.stderr.splitlines() if "outpace.service" in line], done.stderr
