"""What commands print, on the toy model."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace

import pytest
from cli_tools import call, checks_of, words

from outpace.cli import explain
from outpace.controller.adaptive import Step
from outpace.controller.cost import CostTable
from outpace.drafters import DRAFTERS
from outpace.params import SamplingParams


def test_generate_prints_the_text_and_nothing_else(toy_llm):
    (want,) = toy_llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=20))
    arguments = ["--max-tokens", "20", "--drafter", "blind"]
    for result in (call("generate", "hello", *arguments), call("generate", "-", *arguments, stdin="hello")):
        assert (result.exit_code, result.stdout, result.stderr) == (0, want.text + "\n", "")
    (sampled,) = toy_llm.generate("hello", SamplingParams(max_tokens=20, temperature=0.7, top_p=0.9, seed=4))
    result = call("generate", "hello", "--raw", "--temperature", 0.7, "--top-p", 0.9, "--seed", 4, *arguments)
    assert result.stdout == sampled.text + "\n" != want.text + "\n"


def test_the_prompt_from_a_file(files, toy_llm):
    (files / "prompt.txt").write_text("hello\n", "utf-8")
    document = json.loads(call("generate", "--file", "prompt.txt", "--raw", "--json", "--max-tokens", "2").stdout)
    assert document["prompt_tokens"] == 6  # as it is, its last line end included


@pytest.mark.parametrize(
    ("arguments", "drafter", "drafted"),
    [
        (["--drafter", "blind"], "blind", True),
        (["--config", "good.json"], "blind", True),
        (["--config", "good.json", "--drafter", "none"], "none", False),
        (["--drafter", "prompt_lookup", "--num-draft-tokens", "0"], "prompt_lookup", False),
        ([], "auto", None),  # whether it guesses depends on what a pass costs here
    ],
)
def test_how_to_guess(files, toy_llm, arguments, drafter, drafted, monkeypatch):
    seen = []
    original = importlib.import_module("outpace.cli.answer")._document
    monkeypatch.setattr("outpace.cli.answer._document", lambda output, seconds: seen.append(output) or original(output, seconds))
    document = json.loads(call("generate", "abcabcabc", "--raw", "--json", "--max-tokens", "30", *arguments).stdout)
    assert document["drafter"] == drafter
    assert drafted in (None, seen[0].stats.num_draft_tokens > 0)
    if "good.json" in arguments and drafted:
        assert seen[0].stats.num_draft_tokens <= 3 * seen[0].stats.num_drafts


def test_a_config_is_one_more_drafter_of_bench_and_verify(files, toy_llm, monkeypatch):
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    result = call("bench", "--prompts", "good.jsonl", "--drafters", "none", "--config", "good.json", "--max-tokens", "6", "--json", "-")
    assert [row["drafter"] for row in json.loads(result.stdout)["results"] if row["category"] == "all"] == ["none", "good.json"]
    result = call(
        "verify", "--prompts", "good.jsonl", "--drafters", "none", "--config", "good.json", "--max-tokens", "6", "--limit", "1", "--json"
    )
    assert {"good.json, temperature 0", "good.json, temperature 0.8"} <= checks_of(json.loads(result.stdout)).keys()


def test_bench_with_so_many_guesses(files, make_toy):
    make_toy(toy={"sharpness": 6.0, "seed": 5})
    arguments = ["bench", "--prompts", "good.jsonl", "--drafters", "prompt_lookup", "--max-tokens", "60", "--json", "-"]
    lengths = {}
    for count in ("0", "16"):
        rows = json.loads(call(*arguments, "--num-draft-tokens", count).stdout)["results"]
        (lengths[count],) = [
            row["tokens_per_step"] for row in rows if (row["drafter"], row["category"]) == (f"prompt_lookup, {count} guesses", "all")
        ]
    assert lengths["0"] == 1.0 < lengths["16"]
    refused = call(*arguments, "--num-draft-tokens", "4", "--server", "")
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (
        2,
        "error: --num-draft-tokens cannot be used with --server; set it in --config instead",
    )


def test_guessed_tokens_are_coloured(make_toy, monkeypatch):
    llm = make_toy("prompt_lookup", toy={"sharpness": 6.0, "seed": 5})
    (want,) = llm.generate("abcabcabc", SamplingParams(max_tokens=60))
    assert 0 < sum(want.from_draft) < len(want.from_draft)
    arguments = ["generate", "abcabcabc", "--raw", "--max-tokens", "60", "--show-drafts", "--drafter", "prompt_lookup"]
    assert call(*arguments).stdout == want.text + "\n"  # no colours into a pipe
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = call(*arguments).stdout
    assert re.sub(r"\x1b\[[0-9;]*m", "", out) == want.text + "\n"
    coloured = "".join(re.findall(r"\x1b\[[1-9][0-9;]*m([^\x1b]*)\x1b\[0m", out))
    guessed = "".join(piece for piece, flag in zip(want.pieces, want.from_draft, strict=True) if flag)
    assert coloured.replace("\n", "") == guessed.replace("\n", "")


def test_drafters():
    entries = json.loads(call("drafters", "--json").stdout)
    assert [entry["name"] for entry in entries] == [*DRAFTERS, "auto"]
    assert all(entry["description"] and isinstance(entry["options"], dict) for entry in entries)
    assert entries[1]["options"] == {"tokens": "random", "seed": 0}
    assert {entry["name"]: entry["usage"] for entry in entries}["draft_model"] == "draft_model:PATH"
    text = call("drafters").stdout
    assert "draft_model:PATH" in text
    assert all(entry["name"] in text and words(entry["description"]) in words(text) for entry in entries)


def test_bench_shows_temperatures_and_seeds_side_by_side(files, toy_llm):
    options = [
        "--prompts",
        "good.jsonl",
        "--drafters",
        "suffix",
        "--max-tokens",
        "6",
        "--temperature",
        "0,0.8",
        "--seeds",
        "2",
        "--json",
        "-",
    ]
    document = json.loads(call("bench", *options).stdout)
    kinds = {(entry["drafter"], entry["temperature"], entry["num_seeds"]) for entry in document["temperatures"]}
    assert kinds == {("none", 0.0, 1), ("none", 0.8, 2), ("suffix", 0.0, 1), ("suffix", 0.8, 2)}
    assert all(entry["num_identical"] == entry["num_prompts"] for entry in document["temperatures"])
    failed = call("bench", "--prompts", "good.jsonl", "--server", "--temperature", "0,1")
    assert failed.exit_code == 2
    assert "--server measures one temperature" in failed.stderr


def test_explain_is_a_summary_and_the_last_ten_steps(make_toy, monkeypatch):
    """It drafts with auto, here with forward passes that cost the same whatever they run."""
    make_toy(toy={"sharpness": 6.0, "seed": 5})
    costs = CostTable((2.0, 64.0), (10.0, 10.0), (10.0, 10.0), (0.0, 0.0))
    monkeypatch.setattr("outpace.controller.factory.cost_of", lambda *_, **__: costs)
    arguments = ["generate", "abcabcabc", "--raw", "--max-tokens", "60"]
    monkeypatch.setattr("outpace.cli.answer._is_terminal", lambda stream: True)
    result = call(*arguments, "--explain")
    assert result.exit_code == 0
    assert result.stdout == call(*arguments).stdout
    pattern = r"60 tokens in (\d+) steps, (\d+) of them with drafts: (\d+) draft tokens ran, (\d+) were accepted"
    num_steps, num_drafted, num_ran, num_accepted = map(int, re.search(pattern, words(result.stderr)).groups())
    assert 10 < num_steps < 60 <= num_steps + num_accepted
    assert 0 < num_drafted <= num_steps
    assert 0 < num_accepted <= num_ran
    assert f", {num_accepted / num_ran:.0%} of draft tokens accepted\n" in result.stderr
    before, title, last = result.stderr.partition(f"the last 10 of {num_steps} steps")
    assert title
    assert re.findall(r"^ *(\d+) +\d+ +\d+\.\d ", last, re.MULTILINE) == [str(number) for number in range(num_steps - 9, num_steps + 1)]
    rows = {name: (int(ran), int(kept)) for name, ran, kept in re.findall(r"│ (suffix|recycling) +│ +(\d+) │ +(\d+) │", before)}
    assert rows.keys() == {"suffix", "recycling"}
    assert sum(ran for ran, _ in rows.values()) >= num_ran
    assert sum(kept for _, kept in rows.values()) >= num_accepted


def test_explain_for_people():
    """A day and a minute, and special tokens by their names."""
    costs = CostTable((2.0, 64.0), (10.0, 10.0), (10.0, 10.0), (0.0, 0.0), measured_at="2026-11-30T14:17:20+01:00")
    assert explain.cost_table(costs).title == "cost of a forward pass, ms (measured 2026-11-30 13:17 UTC)"
    assert explain.cost_table(replace(costs, measured_at="")).title == "cost of a forward pass, ms"
    names = {1: " to", 2: "<|im_end|>"}
    step = Step(4, 10.0, 0.2, [(1, "suffix", 0.5), (2, "suffix+recycling", 0.25)], (2, "recycling", 0.1))
    shown = explain.draft_tokens(step, lambda token: names[token]).plain
    assert shown == "' to' suffix 0.50  '<|im_end|>' suffix+recycling 0.25  | next best '<|im_end|>' 0.10 is not worth verifying"


def test_explain_is_for_auto(toy_llm):
    refused = call("generate", "hello", "--explain", "--drafter", "blind")
    assert (refused.exit_code, refused.stderr) == (2, "error: --explain explains the choices of auto: add --drafter auto\n")
