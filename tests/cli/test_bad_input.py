"""Bad input of the command line: exit code 2 and one clear line, before anything is loaded."""

from __future__ import annotations

import subprocess

import pytest
from cli_tools import OUTPACE, call, one_error_line

from outpace.drafters import DRAFTERS

KNOWN = ", ".join([*DRAFTERS, "auto"])


@pytest.fixture
def no_model(tmp_path, monkeypatch) -> None:
    """An empty cache, and nothing to fill it from: whoever needs a model fails."""
    monkeypatch.setenv("OUTPACE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("outpace.models.fetch._build", lambda model, folder: pytest.fail("the model was fetched"))


# ---- bad input: exit code 2 and one line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "the prompt is empty"),
        (["generate", ""], "the prompt is empty"),
        (["generate", " \n "], "the prompt is empty"),
        (["generate", "-"], "the prompt is empty"),
        (["generate", "--file", "empty"], "the prompt is empty"),
        (["generate", "--file", "blank"], "the prompt is empty"),
        (["generate", "hi", "--file", "good.jsonl"], "give one prompt: as an argument, with --file, or through a pipe"),
        (["generate", "--file", "missing"], "cannot read missing: No such file or directory"),
        (["generate", "--file", "folder"], "cannot read folder: Is a directory"),
        (["generate", "--file", "binary"], "the prompt is not UTF-8 text"),
        (["generate", "hi", "--drafter", "nonsense"], f"unknown drafter 'nonsense'; known: {KNOWN}, or module:Class"),
        (["generate", "hi", "--drafter", "blind:tokens"], "'tokens' is not of the form key=value"),
        (["generate", "hi", "--model", "nonsense"], "no model 'nonsense'"),
        (["generate", "hi", "--model", "missing.gguf"], "there is no file missing.gguf"),
        (["generate", "hi", "--model", "folder"], "folder has no config.json"),
        (["generate", "hi", "--target", "nonsense"], "unknown target 'nonsense'; known: auto, openvino, hf"),
        (["generate", "hi", "--precision", "nonsense", "--target", "openvino"], "unknown precision 'nonsense'"),
        (["generate", "hi", "--top-p", "0"], "top_p must be a number from"),
        (["generate", "hi", "--top-p", "1.5"], "top_p must be a number from"),
        (["generate", "hi", "--temperature", "1000"], "temperature must be a number from"),
        (["generate", "hi", "--num-draft-tokens", "100"], "num_draft_tokens must be an integer from 0 to 64"),
        (["generate", "hi", "--config", "text.json"], "text.json is not JSON"),
        (["generate", "hi", "--config", "binary"], "cannot read binary: it is not UTF-8 text"),
        (["generate", "hi", "--config", "number.json"], "method must be a string, not 5"),
        (["generate", "hi", "--model", ""], "the name of the model is empty"),
        (["generate", "hi", "--model", " "], "the name of the model is empty"),
        (["generate", "hi", "--config", "unknown.json"], "unknown speculative setting 'methd'"),
        (["generate", "hi", "--config", "list.json"], "speculative settings must be a drafter name or an object, not list"),
        (["demo", "--config", "unknown.json"], "unknown speculative setting 'methd'"),
        (["demo", "--drafter", "nonsense"], "unknown drafter 'nonsense'"),
        (["chat", "--model", "nonsense"], "no model 'nonsense'"),
        (["chat", "--drafter", "nonsense"], "unknown drafter 'nonsense'"),
        (["bench", "--prompts", "missing.jsonl"], "cannot read missing.jsonl: No such file or directory"),
        (["bench", "--prompts", "bad.jsonl"], "bad.jsonl:2: not JSON"),
        (["bench", "--prompts", "empty"], "empty has no prompts"),
        (["bench", "--prompts", "binary"], "cannot read binary"),
        (["bench", "--prompts", "good.jsonl", "--json", "nowhere/out.json"], "nowhere to write out.json to"),
        (["bench", "--prompts", "good.jsonl", "--model", "nonsense"], "no model 'nonsense'"),
        (["verify", "--prompts", "missing.jsonl"], "cannot read missing.jsonl"),
        (["verify", "--prompts", "bad.jsonl"], "bad.jsonl:2: not JSON"),
        (["verify", "--model", "nonsense"], "no model 'nonsense'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(files, no_model, arguments, message):
    assert message in one_error_line(call(*arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "hi", "--drafter", "blind:nothing=1"], "drafter 'blind:nothing=1' has no option 'nothing'; it takes tokens, seed"),
        (["generate", "hi", "--drafter", "blind:seed=x"], "seed must be int, not 'x'"),
        (["generate", "hi", "--drafter", "test_llm:Nothing"], "cannot import test_llm:Nothing"),
        (["generate", "a" * 400], "the prompt has 400 tokens; with one new token at most"),
        (["generate", "ABC"], "the prompt is empty"),  # nothing that this vocabulary knows
        (["bench", "--prompts", "good.jsonl", "--drafters", "none,nonsense"], "unknown drafter 'nonsense'"),
        (["verify", "--drafters", "nonsense"], "unknown drafter 'nonsense'"),
    ],
)
def test_bad_input_that_shows_when_the_model_is_there(files, toy_llm, arguments, message):
    assert message in one_error_line(call(*arguments))


WRONG_VALUES = [
    ["generate", "hi", "--max-tokens", "0"],
    ["generate", "hi", "--max-tokens", "-5"],
    ["generate", "hi", "--max-tokens", "many"],
    ["generate", "hi", "--temperature", "-1"],
    ["generate", "hi", "--temperature", "nan"],
    ["generate", "hi", "--seed", "-1"],
    ["generate", "hi", "--threads", "0"],
    ["generate", "hi", "--num-draft-tokens", "-1"],
    ["generate", "hi", "--nonsense"],
    ["bench", "--prompts", "good.jsonl", "--limit", "0"],
    ["bench", "--prompts", "good.jsonl", "--repeats", "0"],
    ["bench", "--prompts", "builtin:nonsense"],
    ["bench", "--peers", "nonsense"],
    ["bench", "--peers", "llama.cpp", "--temperature", "1"],
    ["bench", "--peers", "llama.cpp", "--server"],
    ["verify", "--max-tokens", "0"],
    ["nonsense"],
]


@pytest.mark.parametrize("arguments", WRONG_VALUES, ids=" ".join)
def test_wrong_values_are_one_line(files, no_model, arguments):
    one_error_line(call(*arguments))


@pytest.mark.parametrize("name", ["missing.json", "folder"])
def test_a_config_that_cannot_be_read(files, no_model, name):
    one_error_line(call("generate", "hi", "--config", name))


def test_in_a_process_of_its_own(files):
    done = subprocess.run([*OUTPACE, "generate", "hi", "--drafter", "nonsense"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: unknown drafter 'nonsense'; known: {KNOWN}, or module:Class\n"
