"""docs/train-your-own.md does what it says: its block and its commands run one after the other, with fewer steps, prompts and texts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

pytest.importorskip("torch")

from safetensors import safe_open
from test_docs import ROOT, blocks
from typer.testing import CliRunner

from outpace.cli import app

PAGE = ROOT / "docs" / "train-your-own.md"
REDUCED = {  # what the page says: what the test runs instead
    "STEPS, NUM_PROMPTS, NUM_QUESTIONS = 500, 1200, 24": "STEPS, NUM_PROMPTS, NUM_QUESTIONS = 120, 96, 4",
    "--generate --max-tokens 128": "--generate --max-tokens 96",
    "--limit 4": "--limit 1",
    "--drafters medusa:heads,prompt_lookup\n": "--drafters medusa:heads,prompt_lookup --json bench.json\n",
    "--epochs 6": "--epochs 4 --json",
}


def reduced(text: str) -> str:
    for long, short in REDUCED.items():
        text = text.replace(long, short)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the tiny model has been made, as the current folder."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_HOME", str(folder / "home"))
        patch.chdir(folder)
        (source,) = blocks(PAGE, "python")
        exec(compile(reduced(source), PAGE.name, "exec"), {})
        yield folder


def test_the_reductions_are_still_of_this_page():
    text = PAGE.read_text("utf-8")
    assert all(text.count(long) == 1 for long in REDUCED)


@pytest.mark.timeout(300)
def test_the_tutorial_trains_heads(folder):
    """In the order of the page; every command succeeds, and the last one is the export."""
    lines = [line for block in blocks(PAGE, "") for line in reduced(block).splitlines()]
    assert len(lines) == 5
    said = {}
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        said[shlex.split(line)[1]] = result.stdout
    results = {row["drafter"]: row for row in json.loads((folder / "bench.json").read_text())["results"] if row["category"] == "all"}
    assert {row["num_identical"] for row in results.values()} == {4}
    expected = json.loads(said["train"])["training"]["held_out"]["acceptance_best"]
    gain = json.loads(said["train"])["expected"]
    assert gain["drafter"] == "medusa:heads"
    assert [shape["num_draft_tokens"] for shape in gain["shapes"]] == [1, 2, 4, 6, 10, 16, 24]
    assert gain["best"]["speedup"] == max(shape["speedup"] for shape in gain["shapes"]) > 0
    measured = results["medusa:heads"]["tokens_per_step"]
    assert measured > 1.2
    assert measured == pytest.approx(expected, rel=0.25)  # a handful of texts each
    assert "--speculative-config" in said["export"]
    with safe_open(folder / "heads-vllm" / "model.safetensors", "np") as file:
        assert any(name.startswith("blocks.0.") for name in file.keys())  # noqa: SIM118
