"""How much `outpace verify` runs: what was asked for, and otherwise what a model of this speed does in five minutes."""

from __future__ import annotations

import json
import time

import pytest
from cli_tools import call

from outpace.bench.workloads import Workload
from outpace.testing.effort import NUM_TIMED, SECONDS, Pace, num_answers, num_references, pace_of, size_of_run


def sizes(pace: float, limit: int | None = None, max_tokens: int | None = None) -> tuple[int, int]:
    """The size of a run of one answer per prompt in which a token takes `pace` times the seconds of a run."""
    return size_of_run(lambda prompts, tokens: prompts * tokens * pace * SECONDS, limit, max_tokens)


def test_slower_models_get_shorter_runs():
    assert sizes(1 / (6 * 64)) == (6, 64)
    assert sizes(1.01 / (6 * 64)) == (6, 32)
    assert sizes(1.01 / (6 * 32)) == (4, 32)
    assert sizes(1.01 / (4 * 32)) == (2, 32)
    assert sizes(1.01 / (2 * 32)) == (2, 16)
    assert sizes(100.0) == (2, 16)


def test_what_was_asked_for_is_run_however_long_it_takes():
    assert sizes(100.0, 12, 128) == (12, 128)
    assert sizes(100.0, limit=1) == (1, 16)
    assert sizes(1 / (6 * 64), limit=12) == (12, 32)
    assert sizes(100.0, max_tokens=128) == (2, 128)
    assert sizes(0.0, max_tokens=8) == (6, 8)


@pytest.mark.parametrize(("concurrency", "num_drafters"), [("1", 1), ("1,2", 2), ("4,1", 1)])
def test_the_answers_that_are_announced_are_those_of_the_run(files, toy_llm, monkeypatch, concurrency, num_drafters):
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    answers = []
    chat = toy_llm.chat
    monkeypatch.setattr(toy_llm, "chat", lambda *arguments, **options: answers.append(chat(*arguments, **options)) or answers[-1])
    monkeypatch.setattr("outpace.cli.options.loading.Loading.llm", lambda *_: toy_llm)
    drafters = ",".join(["blind", "suffix"][:num_drafters])
    call("verify", "--prompts", "good.jsonl", "--max-tokens", "4", "--drafters", drafters, "--concurrency", concurrency)
    num_timed = 3  # the short answers before
    at_once = [int(size) for size in concurrency.split(",")]
    assert sum(map(len, answers)) - num_timed == num_answers(2, at_once, 3, num_drafters)


def test_a_slow_model_says_how_long_it_takes(files, toy_llm, monkeypatch):
    """Three prompts; of the sizes to choose from the smallest has two."""
    monkeypatch.setattr("outpace.testing.proof._distributions", lambda: [])
    monkeypatch.setattr("outpace.testing.effort.pace_of", lambda *_: Pace(0.0, 60.0))
    result = call("verify", "--prompts", "good.jsonl", "--drafters", "blind", "--concurrency", "1", "--json")
    count = num_answers(2, [1], 2, 1)
    checked, references = count - num_references(2, 2), num_references(2, 2)
    told = f"{checked} answers of at most 16 tokens, and {references} to compare with, take about {count * 16} minutes"
    assert result.stderr.splitlines()[0] == told
    document = json.loads(result.stdout)
    assert document["claim"].startswith("2 prompts, at most 16 tokens, ")
    assert document["num_answers"] == checked
    monkeypatch.setattr("outpace.testing.effort.pace_of", lambda *_: Pace(0.0, 0.001))
    assert call("verify", "--prompts", "good.jsonl", "--drafters", "blind", "--concurrency", "1", "--json").stderr == ""


def test_prompts_and_tokens_are_timed_apart(toy_llm):
    """A prompt of 0.1 s, tokens of 0.02 s each; the first answer, which also warms up, does not count."""
    chat, calls = toy_llm.chat, []

    def slow(messages, params, **options):
        calls.append(params.max_tokens)
        time.sleep((0.5 if len(calls) == 1 else 0.1) + 0.02 * params.max_tokens)
        return chat(messages, params, **options)

    toy_llm.chat = slow
    pace = pace_of(toy_llm, Workload("1", "chat", "chat", [{"role": "user", "content": "ab"}]))
    assert calls == [1, 1, 1 + NUM_TIMED]
    assert 0.1 < pace.prompt < 0.5
    assert 0 < pace.token < 0.1
    assert Pace(0.5, 0.25).seconds(10, 4) == 15.0
