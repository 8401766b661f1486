"""dev/fuzz_lossless.py on the toy model: it finds nothing where all is well, and what is wrong where something is."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from pathlib import Path

import pytest
from toy_parts import let_round

from outpace.testing import AcceptEverythingVerifier

FILE = Path(__file__).parents[2] / "dev" / "fuzz_lossless.py"


@pytest.fixture(autouse=True)
def log_level():
    """The script silences warnings."""
    logger = logging.getLogger("outpace")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fuzz_lossless", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fuzz_lossless", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def test_nothing_differs(script, make_toy, monkeypatch, capsys):
    llm = make_toy(toy={"sharpness": 4.0})
    monkeypatch.setattr(script, "LLM", lambda *_, **__: llm)
    assert script.main(["--comparisons", "150", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["compared"], found["near_ties"], found["differences"]) == ("bits", [], [])
    assert found["num_comparisons"] >= 150
    assert found["num_failing"] > 5
    assert found["num_accepted"] > 100
    assert min(found["num_preemptions"], found["num_aborted"]) > 0


def test_a_cheating_verifier_is_found_and_its_round_can_be_run_again(script, make_toy, monkeypatch):
    llm = make_toy(toy={"sharpness": 4.0})
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    report = script.fuzz(llm, 0, 40, 60.0)
    assert report.differences
    seed = int(report.differences[0].split()[1].rstrip(","))
    again = script.fuzz(llm, seed, 1, 60.0)
    assert again.differences[0] == report.differences[0]
    assert "first difference at token " in again.differences[0]
    assert "explains" not in again.differences[0]  # bits are promised, so there is nothing to explain


def test_rounding_gives_near_ties_where_no_bits_are_promised(script, make_toy, monkeypatch):
    llm = make_toy(toy={"sharpness": 4.0})
    let_round(llm.target, monkeypatch)
    report = script.fuzz(llm, 0, 100, 60.0)
    assert report.near_ties
    assert not report.differences


def test_a_tiny_family_gives_a_model_and_a_cache_of_its_own(script, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setenv("OUTPACE_HOME", "elsewhere")
    with script.folder_of("Mistral, window") as folder:
        assert json.loads(Path(folder, "config.json").read_text())["sliding_window"] == 40
        assert Path(os.environ["OUTPACE_HOME"]) == Path(folder).parent
    assert not Path(folder).exists()
