"""A drafter that fails is shown by `outpace bench`, and never chosen by `outpace tune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_tools import call

from outpace.config import SpeculativeConfig
from outpace.drafters.base import Drafter
from outpace.tree.draft import Draft
from outpace.tune import candidates

BROKEN = "test_failed_drafters:Broken"


class Broken(Drafter):
    """Fails on every proposal."""

    num_draft_tokens = 5

    def __init__(self, context: Any):
        pass

    def propose(self, request: Any, budget: int) -> Draft:
        raise ValueError("no idea")


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_llm: Any) -> Path:
    """A folder with a file of prompts, which is the current folder; every model is a toy."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "abc abc " * (i + 1), "category": "qa" if i % 2 else "chat"} for i in range(4)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.usefixtures("real_defaults")
def test_bench_shows_a_failed_drafter(prompts):
    words = ("bench", "--prompts", "p.jsonl", "--max-tokens", 8, "--drafters", f"{BROKEN},blind")
    result = call(*words, "--json", "out.json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: drafter {BROKEN} failed on 4 of 4 prompts: ValueError: no idea"
    assert "failed" in result.stdout
    rows = {(row["drafter"], row["category"]): row for row in json.loads((prompts / "out.json").read_text())["results"]}
    assert (rows[BROKEN, "all"]["num_failed"], rows[BROKEN, "chat"]["num_failed"]) == (4, 2)
    assert rows[BROKEN, "qa"]["error"] == "ValueError: no idea"
    assert rows[BROKEN, "all"]["num_identical"] == 4  # the engine continued without the drafter
    assert (rows["blind", "all"]["num_failed"], rows["blind", "all"]["error"]) == (0, None)


def test_bench_without_failures_succeeds(prompts):
    result = call("bench", "--prompts", "p.jsonl", "--max-tokens", 8, "--drafters", "blind")
    assert result.exit_code == 0, result.output
    assert "failed" not in result.stdout


@pytest.mark.usefixtures("real_defaults")
def test_tune_fails_if_a_named_drafter_fails(prompts):
    words = ("tune", "--prompts", "p.jsonl", "--max-tokens", 8, "--time-limit", 2)
    result = call(*words, "--drafters", f"{BROKEN},blind", "--out", "c.json", "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: the drafter of {BROKEN} failed: ValueError: no idea"
    found = json.loads(result.stdout)
    assert found["config"]["method"] != BROKEN
    assert "failed on prompt" in next(row["failure"] for row in found["results"] if row["method"] == BROKEN)
    assert json.loads((prompts / "c.json").read_text()) == found["config"]


@pytest.mark.usefixtures("real_defaults")
def test_tune_drops_a_failed_drafter_that_nobody_named(prompts, monkeypatch):
    monkeypatch.setattr(candidates, "METHODS", ("blind", BROKEN))
    result = call("tune", "--prompts", "p.jsonl", "--max-tokens", 8, "--time-limit", 2, "--json")
    assert result.exit_code == 0, result.output
    assert f"dropped {BROKEN}: its drafter failed (ValueError: no idea)" in result.stderr.splitlines()
    assert SpeculativeConfig(json.loads(result.stdout)["config"]["method"]).method in ("none", "blind")
