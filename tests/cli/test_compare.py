"""How fast an answer was: a line for a person at a terminal, and the comparison with plain decoding."""

from __future__ import annotations

import json
import re
import sys

import pytest
from cli_tools import call

from outpace.testing import AcceptEverythingVerifier


def test_the_figures_of_an_answer_go_to_a_terminal_only(toy_llm, monkeypatch):
    arguments = ["generate", "hello", "--max-tokens", "20", "--drafter", "blind"]
    assert call(*arguments).stderr == ""
    monkeypatch.setattr("outpace.cli.answer._is_terminal", lambda stream: stream is sys.stderr)
    result = call(*arguments)
    share = r"\d+% of draft tokens accepted"
    cut = "stopped after 20 tokens; --max-tokens allows more\n"
    assert re.fullmatch(rf"20 tokens, \d+\.\d tokens/s, \d\.\d\d tokens per step, {share}\n{cut}", result.stderr)
    assert call(*arguments[:-1], "none").stderr.endswith(f"1.00 tokens per step, no drafts\n{cut}")
    assert call(*arguments, "--json").stderr == ""


@pytest.mark.parametrize("sampling", [[], ["--temperature", "0.8"]])
def test_an_answer_compared_with_plain_decoding(toy_llm, sampling):
    arguments = ["generate", "hello", "--max-tokens", "20", "--drafter", "blind", "--compare", *sampling]
    result = call(*arguments)
    assert result.exit_code == 0
    figures, *_, verdict = result.stderr.splitlines()
    assert re.match(r"\d+ tokens, ", figures)
    assert re.fullmatch(r"plain: \d+\.\d tokens/s; blind is \d+\.\d\dx as fast; identical texts", verdict)
    document = json.loads(call(*arguments, "--json").stdout)
    assert list(document)[-1] == "compare"
    assert {key: type(value) for key, value in document["compare"].items()} == {
        "tokens_per_second": float,
        "speedup": float,
        "identical": bool,
        "loops": bool,
    }


def test_a_comparison_that_differs_fails(toy_llm, monkeypatch):
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    result = call("generate", "hello", "--max-tokens", "20", "--drafter", "blind", "--compare")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2].endswith("; the texts differ")
    assert result.stderr.splitlines()[-1] == "error: the two texts differ; `outpace verify` says more"


def test_a_comparison_of_a_text_that_loops_says_so(toy_llm):
    arguments = ["generate", "hello", "--max-tokens", "60", "--drafter", "prompt_lookup", "--compare"]
    loop = [*arguments, "--allowed-token-ids", "7"]
    assert call(*loop).stderr.splitlines()[-1] == "Note: the text loops; its speed is not representative."
    assert json.loads(call(*loop, "--json").stdout)["compare"]["loops"] is True
    assert json.loads(call(*arguments, "--temperature", "1", "--seed", "0", "--json").stdout)["compare"]["loops"] is False
