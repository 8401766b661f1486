"""Tuning: the intervals, the verdict on made-up results, the search under a made-up clock, and the command on the toy model."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from outpace import cli
from outpace.bench.workloads import Workload, rotation, spread
from outpace.config import FILE_VERSION, SpeculativeConfig
from outpace.drafters import DRAFTERS
from outpace.errors import BadInputError, OutpaceError
from outpace.tune import findings as report
from outpace.tune import session
from outpace.tune.candidates import METHODS, PLAIN, SETTINGS, default_methods, label, named_methods, variations
from outpace.tune.intervals import Estimate, Sample, advantage, speedup
from outpace.tune.search import Outcome, Search
from outpace.tune.verdict import Tried, verdict

# ---- intervals


def samples(ratios: list[float], category: str = "chat", first: int = 0, is_identical: bool = True) -> tuple[Sample, ...]:
    """Plain decoding takes 1 s for each prompt; the candidate 1 / ratio."""
    return tuple(Sample(first + i, category, 1.0, 1.0 / r, 20, 10, is_identical) for i, r in enumerate(ratios))


def test_speedup_is_the_ratio_of_total_times_and_not_a_mean_of_ratios():
    found = speedup([Sample(0, "a", 9.0, 3.0, 9, 9, True), Sample(1, "a", 1.0, 1.0, 9, 9, True)])
    assert found is not None
    assert found.value == pytest.approx(10 / 4)
    assert found.num_prompts == 2
    assert speedup([]) is None


def test_one_prompt_has_no_interval_and_no_confidence():
    assert speedup(samples([5.0])) == Estimate(pytest.approx(5.0), None, None, 1)
    assert not speedup(samples([5.0])).is_faster
    assert not speedup(samples([0.2])).is_slower


def test_equal_prompts_have_a_narrow_interval_and_few_different_ones_a_wide_one():
    sure = speedup(samples([1.5] * 4))
    assert (sure.low, sure.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert sure.is_faster
    two, many = speedup(samples([1.2, 1.8])), speedup(samples([1.2, 1.8] * 20))
    assert two.low < 0.5
    assert two.high > 3
    assert not two.is_faster
    assert 1.3 < many.low < many.value < many.high < 1.6
    assert two.value == pytest.approx(many.value)


@pytest.mark.parametrize("num_prompts", [3, 6, 12, 40])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(num_prompts):
    """400 made-up files of prompts whose true ratio is known. At 95%, fewer than 360 hits have a chance below 1e-4."""
    rng, hits = np.random.default_rng(num_prompts), 0
    plain = rng.lognormal(0, 0.2, (400, num_prompts))
    mine = plain / rng.lognormal(0.5, 0.3, (400, num_prompts))
    truth = math.exp(0.5 - 0.3**2 / 2)  # 1 / mean of 1/ratio
    for row in range(400):
        found = speedup([Sample(i, "x", plain[row, i], mine[row, i], 9, 9, True) for i in range(num_prompts)])
        hits += found.low <= truth <= found.high
    assert hits >= 360


def test_advantage_is_paired():
    """Prompts differ tenfold, the two ways by 5% on each: the pairing sees it, two separate intervals would not."""
    rng = np.random.default_rng(1)
    ratios = rng.uniform(1, 10, 8).tolist()
    a, b = samples(ratios), samples([r * 1.05 for r in ratios])
    assert speedup(a).high > speedup(b).low
    found = advantage(b, a)
    assert found.value == pytest.approx(1.05)
    assert found.is_faster
    assert advantage(a, b).is_slower
    assert advantage(a[:3], b[2:]).num_prompts == 1
    assert advantage(a[:3], b[3:]) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_any_times_give_ordered_finite_numbers(times):
    found = speedup([Sample(i, "x", a, b, 0, 0, True) for i, (a, b) in enumerate(times)])
    assert 0 < found.value < math.inf
    if len(times) > 1:
        assert found.low <= found.value <= found.high


# ---- the verdict

SUFFIX, LOOKUP, BOTH = SpeculativeConfig("suffix"), SpeculativeConfig("prompt_lookup", 7), SpeculativeConfig("suffix+recycling")
STEADY = [1.68, 1.72, 1.7, 1.66, 1.74, 1.7]


def test_a_clear_winner():
    advice = verdict([Tried(SUFFIX, samples([1.2, 1.3] * 3)), Tried(BOTH, samples(STEADY)), Tried(LOOKUP, samples([0.8] * 6))])
    assert advice.config == BOTH
    assert advice.closest.config == BOTH
    assert advice.text.startswith("suffix+recycling, expect 1.70x (1.")
    assert "Equally fast" not in advice.text
    assert "translation" not in advice.text


def test_a_tie_is_told():
    noisy = [1.6, 1.8, 1.75, 1.7, 1.55, 1.7]
    advice = verdict([Tried(BOTH, samples(STEADY)), Tried(LOOKUP, samples(noisy)), Tried(SUFFIX, samples([1.1] * 6))])
    assert advice.config == BOTH
    assert "Equally fast within the noise: prompt_lookup with 7 draft tokens per step." in advice.text


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ([0.8, 0.85, 0.82, 0.8], "Speculation does not pay off for these prompts: use plain decoding. The best, suffix, was 0.82x"),
        ([0.8, 1.5, 1.1, 0.9], "No candidate is clearly faster than plain decoding: use plain decoding. The closest, suffix, was"),
        ([1.5], "One prompt is too few to judge: use plain decoding. suffix was 1.50x; use more prompts."),
    ],
)
def test_plain_decoding_wins(ratios, words):
    advice = verdict([Tried(SUFFIX, samples(ratios)), Tried(LOOKUP, samples([0.5] * len(ratios)), dropped="slower than plain decoding")])
    assert advice.config == PLAIN
    assert advice.text.startswith(words)


def test_the_closest_is_no_lucky_newcomer():
    advice = verdict([Tried(SUFFIX, samples([0.8, 1.4] * 6)), Tried(BOTH, samples([1.6]))])
    assert advice.closest.config == SUFFIX
    assert "One prompt" not in advice.text


def test_few_common_prompts_are_no_tie():
    assert "Equally fast" not in verdict([Tried(BOTH, samples(STEADY)), Tried(LOOKUP, samples([1.7, 1.71]))]).text


def test_nothing_measured():
    assert verdict([Tried(SUFFIX)]).config == verdict([]).config == PLAIN


def test_categories_that_lose_and_that_are_unclear():
    mixed = samples([2.0, 2.1, 2.0, 2.1], "chat") + samples([0.8, 0.81, 0.8], "translation", 4) + samples([1.3], "rag", 7)
    mixed += samples([2.2, 2.1, 2.0, 2.1], "qa", 8)
    advice = verdict([Tried(SUFFIX, mixed)])
    assert advice.config == SUFFIX
    assert "Speculation does not pay off for your translation (0.80x) prompts." in advice.text
    assert "Too few prompts to judge: rag (1.30x)." in advice.text
    assert "chat" not in advice.text
    assert "qa" not in advice.text


@pytest.mark.parametrize(
    "wrong",
    [
        Tried(LOOKUP, samples([9.0] * 6)[:5] + samples([9.0], first=5, is_identical=False)),
        Tried(LOOKUP, samples([9.0] * 6), failure="failed on prompt 3 (broken)"),
    ],
)
def test_who_changes_tokens_or_fails_is_reported_and_never_chosen(wrong):
    advice = verdict([wrong, Tried(SUFFIX, samples(STEADY))])
    assert advice.config == SUFFIX
    assert advice.text.endswith("it is not chosen.")
    assert "prompt_lookup with 7 draft tokens per step" in advice.text.split("measured). ")[1]
    assert verdict([wrong]).config == PLAIN


def test_luck_on_few_prompts_does_not_beat_evidence():
    """The same prompts: the newcomer was a little better on three of them."""
    known = samples([1.9, 1.8, 1.85, 1.5, 1.55, 1.5])
    lucky = samples([1.92, 1.79, 1.9])
    assert speedup(lucky).value > speedup(known).value
    assert verdict([Tried(SUFFIX, known), Tried(BOTH, lucky)]).config == SUFFIX
    better = samples([2.9, 2.7, 2.8, 2.3])
    assert verdict([Tried(SUFFIX, known), Tried(BOTH, better)]).config == BOTH


# ---- candidates


def test_every_default_and_every_setting_of_the_tables_can_be_built(toy_llm):
    known = default_methods(toy_llm)
    assert {config.method for config in known} >= {method for method in METHODS if all(p in DRAFTERS for p in method.split("+"))}
    others = variations(known, 1000)
    for config in others:
        toy_llm.strategy(config)
    assert len(set(others)) == len(others) > 10
    assert not set(others) & set(known)
    assert set(SETTINGS) <= set(DRAFTERS)


def test_methods_that_the_target_cannot_run_are_left_out(make_toy):
    methods = {config.method for config in default_methods(make_toy("none", toy={"tree": False}))}
    assert "prompt_lookup" in methods
    assert not any("recycling" in method for method in methods if method != "auto")


def test_variations_take_turns_and_stop():
    found = variations([SUFFIX, SpeculativeConfig("prompt_lookup")], 3)
    assert [(config.method, config.num_draft_tokens) for config in found] == [("suffix", 4), ("prompt_lookup", 4), ("suffix", 7)]
    assert all(config.num_draft_tokens == 7 for config in variations([LOOKUP], 9))  # the number is the user's
    assert variations([], 5) == variations([SUFFIX], 0) == []


def test_named_methods():
    assert named_methods("suffix, none,suffix", {"method": "suffix", "num_draft_tokens": 4}) == [SUFFIX, SpeculativeConfig("suffix", 4)]
    assert named_methods(None) == []
    assert label(SpeculativeConfig("suffix", 4, "typical")) == "suffix with 4 draft tokens per step (typical)"


# ---- the search, with a made-up clock


@dataclass
class World:
    """Answers take what `ratio(config, prompt)` says; plain decoding a second each. Nothing else takes time."""

    ratio: Callable[[SpeculativeConfig, int], float]
    tokens: Callable[[SpeculativeConfig, int], list[int]] = lambda config, prompt: [1, 2, 3]
    now: float = 100.0
    asked: list[tuple[int, SpeculativeConfig]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def ask(self, workload: Workload, config: SpeculativeConfig) -> Any:
        prompt = int(workload.id)
        self.asked.append((prompt, config))
        seconds = 1.0 if config == PLAIN else 1.0 / self.ratio(config, prompt)
        self.now += seconds
        return SimpleNamespace(
            finish_reason="stop",
            error=None,
            token_ids=self.tokens(config, prompt),
            stats=SimpleNamespace(decode_seconds=seconds, num_steps=2, drafter_error=None),
        )

    def search(self, methods: list[SpeculativeConfig], num_prompts: int, time_limit: float, categories: int = 3) -> Search:
        workloads = [Workload(str(i), f"c{i % categories}", "x", [{"role": "user", "content": "x"}]) for i in range(num_prompts)]
        return Search(workloads, methods, self.ask, time_limit, self.clock)


SPEEDS = {"suffix": 1.5, "prompt_lookup": 1.2, "blind": 0.7, "recycling": 1.1, "suffix+recycling": 1.8, "prompt_lookup+blind": 0.9}


def speed(config: SpeculativeConfig, prompt: int) -> float:
    """A little noise from prompt to prompt; 7 guesses a step are best."""
    base = SPEEDS[config.method.partition(":")[0]] * (1.2 if config.num_draft_tokens == 7 else 1.0) * (0.9 if ":" in config.method else 1.0)
    return base * (1 + 0.05 * math.sin(prompt))


ALL = [SpeculativeConfig(method) for method in SPEEDS]


def test_the_search_finds_the_best_method_and_setting_within_the_time():
    world = World(speed)
    outcome = world.search(ALL, 300, 200).run()
    assert verdict(outcome.tried).config == SpeculativeConfig("suffix+recycling", 7)
    assert outcome.seconds == world.now - 100 <= 200
    assert outcome.seconds > 190  # and it uses the time
    assert not outcome.is_interrupted
    by_config = {entry.config: entry for entry in outcome.tried}
    assert by_config[SpeculativeConfig("blind")].dropped == "slower than plain decoding"
    assert by_config[SpeculativeConfig("recycling")].dropped.startswith("slower than suffix+recycling")
    assert len(by_config[SpeculativeConfig("blind")].samples) == 3 < len(by_config[SpeculativeConfig("suffix+recycling", 7)].samples)


def test_plain_decoding_is_in_every_turn_and_nobody_runs_a_prompt_twice():
    world = World(speed)
    outcome = world.search(ALL, 12, 500).run()
    others = [entry for entry in world.asked if entry[1] != PLAIN]
    assert len(others) == len(set(others))
    assert sum(len(entry.samples) for entry in outcome.tried) == len(others)
    finalists = [entry for entry in outcome.tried if not entry.dropped]
    assert {len(entry.samples) for entry in finalists} == {12}
    assert outcome.seconds < 500  # all is run: it ends early
    assert world.asked[0][1] != world.asked[len(ALL) + 1][1]  # who is first changes


def test_the_first_prompts_are_spread_over_the_categories():
    world = World(speed)
    workloads = [Workload(str(i), "ab"[i >= 5], "x", []) for i in range(10)]
    Search(workloads, [SUFFIX], world.ask, 8, world.clock).run()
    prompts = list(dict.fromkeys(prompt for prompt, _ in world.asked))
    assert prompts[:4] == [0, 5, 1, 6]


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_one_or_two_prompts(num_prompts):
    advice = verdict(World(speed).search([SUFFIX], num_prompts, 100).run().tried)
    assert advice.config == (PLAIN if num_prompts == 1 else advice.config)
    assert advice.text


@pytest.mark.parametrize("time_limit", [0.1, 1.0, 2.5, 5, 9, 17, 40])
def test_any_time_limit_ends_in_time_or_one_answer_later(time_limit):
    world = World(speed)
    outcome = world.search(ALL, 30, time_limit).run()
    assert outcome.seconds <= time_limit + 1 / 0.7 + 0.1
    assert isinstance(verdict(outcome.tried).text, str)


def test_little_time_goes_to_few_finalists():
    """A turn of all seven takes 6.5 s of 16: what is left serves the best one, not none."""
    world = World(speed)
    outcome = world.search(ALL, 30, 16).run()
    assert max(len(entry.samples) for entry in outcome.tried) >= 3
    assert outcome.seconds > 13


def test_a_drafter_that_changes_tokens_is_not_asked_again():
    world = World(speed, tokens=lambda config, prompt: [1, 2] if config == BOTH and prompt == 1 else [1, 2, 3])
    outcome = world.search([SUFFIX, BOTH], 30, 100).run()
    (wrong,) = [entry for entry in outcome.tried if entry.config == BOTH]
    assert wrong.failure == "gave other tokens than plain decoding on prompt 1"
    assert len(wrong.samples) == 2
    assert verdict(outcome.tried).config.method == "suffix"
    assert not any("recycling" in config.method for _, config in world.asked[6:])


def test_prompts_and_drafters_that_fail():
    world = World(speed)
    answer = world.ask

    def ask(workload: Workload, config: SpeculativeConfig) -> Any:
        if workload.id == "1":
            raise BadInputError("the prompt has 9999 tokens")
        output = answer(workload, config)
        if (workload.id == "2" and config == PLAIN) or (workload.id == "3" and config == BOTH):
            output.finish_reason, output.error = "error", ValueError("broken")
        return output

    world.ask = ask
    outcome = world.search([SUFFIX, BOTH], 12, 500).run()
    assert outcome.failed_prompts == {"1": "the prompt has 9999 tokens", "2": "broken"}
    found = {entry.config: entry for entry in outcome.tried}
    assert found[BOTH].failure == "failed on prompt 3 (broken)"
    assert {len(entry.samples) for entry in outcome.tried if not entry.dropped and not entry.failure} == {10}
    assert not {1, 2} & {sample.prompt for entry in outcome.tried for sample in entry.samples}


def test_ctrl_c_keeps_what_is_known():
    world = World(speed)
    answer = world.ask

    def ask(workload: Workload, config: SpeculativeConfig) -> Any:
        if len(world.asked) == 20:
            raise KeyboardInterrupt
        return answer(workload, config)

    world.ask = ask
    outcome = world.search(ALL, 30, 500).run()
    assert outcome.is_interrupted
    assert sum(len(entry.samples) for entry in outcome.tried) >= 12


def test_rotation_starts_are_what_spread_chooses():
    workloads = [Workload(str(i), "aab"[i % 3], str(i % 2), []) for i in range(20)]
    for limit in (1, 5, 20):
        assert {w.id for w in rotation(workloads)[:limit]} == {w.id for w in spread(workloads, limit)}
    assert len(rotation(workloads)) == 20


# ---- the command


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture
def prompts(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": i, "prompt": "abc abc " * (i + 1), "category": "qa" if i % 2 else "chat"} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "wrong.json").write_text('{"version": 2, "method": "suffix"}')
    return tmp_path


def test_json_and_a_file_that_the_other_commands_accept(prompts, toy_llm):
    result = call("tune", "--prompts", "p.jsonl", "--time-limit", 4, "--max-tokens", 12, "--json", "--out", "c.json")
    assert result.exit_code == 0, result.output
    found, written = json.loads(result.stdout), json.loads((prompts / "c.json").read_text())
    assert found["config"] == written
    assert list(written) == [key for key in ("version", "method", "num_draft_tokens", "measured") if key in written]
    assert written["version"] == FILE_VERSION
    assert written["measured"].keys() >= {
        "model",
        "cpu",
        "cores",
        "date",
        "precision",
        "num_prompts",
        "speedup",
        "low",
        "high",
        "categories",
    }
    for row in found["results"]:
        assert row.keys() >= {"method", "category", "num_prompts", "num_tokens", "tokens_per_step", "speedup", "low", "high"}
        assert row["num_identical"] == row["num_prompts"]
        assert row["failure"] is None
    assert {row["category"] for row in found["results"]} == {"all", "chat", "qa"}
    assert found["seconds"] < 6
    assert found["verdict"] == written["measured"]["verdict"] != ""
    answer = call("generate", "abc", "--max-tokens", 8, "--config", "c.json", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["drafter"] == written["method"]
    again = call("tune", "--prompts", "p.jsonl", "--time-limit", 1, "--max-tokens", 6, "--drafters", "suffix", "--config", "c.json")
    assert again.exit_code == 0, again.output


def test_tables_and_verdict_for_people(prompts, toy_llm):
    result = call("tune", "--prompts", "p.jsonl", "--time-limit", 2, "--max-tokens", 8, "--drafters", "prompt_lookup,blind")
    assert result.exit_code == 0, result.output
    for piece in ("toy f32", "method", "prompts", "95%", "prompt_lookup", "blind", "category", "plain"):
        assert piece in result.stdout
    assert [path.name for path in prompts.iterdir() if path.suffix == ".json"] == ["wrong.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "missing.jsonl"], "cannot read missing.jsonl: No such file or directory"),
        (["--prompts", "empty.jsonl"], "empty.jsonl has no prompts"),
        (["--prompts", "p.jsonl", "--out", "nowhere/c.json"], "there is no folder"),
        (["--prompts", "p.jsonl", "--out", "."], ". is a folder"),
        (["--prompts", "p.jsonl", "--drafters", "nonsense"], "unknown drafter 'nonsense'"),
        (["--prompts", "p.jsonl", "--drafters", ","], "--drafters names no drafter"),
        (["--prompts", "p.jsonl", "--config", "wrong.json"], "speculative settings of version 2; this outpace reads version 1"),
        (["--prompts", "p.jsonl", "--config", "missing.json"], "cannot read missing.json"),
        (["--prompts", "p.jsonl", "--time-limit", "0"], "time-limit"),
        (["--prompts", "p.jsonl", "--limit", "0"], "limit"),
        ([], "--prompts"),
    ],
)
def test_bad_input_is_told_before_the_model_loads(prompts, monkeypatch, arguments, message):
    monkeypatch.setattr("outpace.llm.load", lambda *_: pytest.fail("the model was loaded"))
    result = call("tune", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("seconds", ["nan", "inf"])
def test_a_time_limit_is_a_number(prompts, toy_llm, seconds):
    result = call("tune", "--prompts", "p.jsonl", "--time-limit", seconds)
    assert result.exit_code == 2
    assert re.search("time.limit", result.stderr)


def test_only_plain_decoding_is_nothing_to_try(prompts, toy_llm):
    result = call("tune", "--prompts", "p.jsonl", "--drafters", "none")
    assert result.exit_code == 2
    assert "nothing to try" in result.stderr


def test_prompts_that_are_all_too_long(prompts, toy_llm):
    (prompts / "long.jsonl").write_text(json.dumps({"prompt": "abc " * 500}))
    result = call("tune", "--prompts", "long.jsonl", "--drafters", "suffix")
    assert result.exit_code == 1
    assert "no prompt could be run; prompt 1: the prompt has" in result.stderr


def test_a_time_limit_that_is_too_short(prompts, toy_llm, monkeypatch):
    monkeypatch.setattr(session, "_warm_up", lambda *_: None)
    monkeypatch.setattr(Search, "run", lambda self: Outcome([Tried(SUFFIX)], {}, False, 1.0, 3.5))
    result = call("tune", "--prompts", "p.jsonl", "--drafters", "suffix", "--time-limit", "1")
    assert result.exit_code == 1
    assert "a time limit of 1 s is too short to compare anything: a prompt takes about 7 s" in result.stderr


def test_ctrl_c_prints_what_is_known_and_writes_nothing(prompts, toy_llm, monkeypatch):
    chat, calls = type(toy_llm).chat, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return chat(self, *arguments, **options)

    monkeypatch.setattr(type(toy_llm), "chat", interrupted)
    result = call("tune", "--prompts", "p.jsonl", "--drafters", "suffix,blind", "--max-tokens", 8, "--out", "c.json")
    assert result.exit_code == 130
    assert "suffix" in result.stdout
    assert "no settings were written" in result.stderr
    assert not (prompts / "c.json").exists()


def test_tables_show_why():
    tried = [
        Tried(SUFFIX, samples(STEADY) + samples([1.5], "qa", 6)),
        Tried(LOOKUP, samples([0.8] * 3), dropped="slower than plain decoding"),
    ]
    outcome, out = Outcome([*tried, Tried(BOTH)], {}, False, 12.0, 1.0), io.StringIO()
    advice = verdict(tried)
    for table in report.tables({"model": "m", "settings": {"precision": "int8", "temperature": 0}}, outcome, advice):
        Console(file=out, width=120).print(table)
    lines = [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]
    assert any(line.startswith("suffix default 7 2.00 1.67 1.") and line.endswith("7/7 chosen") for line in lines)
    assert "prompt_lookup 7 3 2.00 0.80 0.80 to 0.80 3/3 slower than plain decoding" in lines
    assert "suffix+recycling default 0 0.00 0/0 no time left" in lines
    assert "qa 1 2.00 1.50 1/1" in lines


def test_the_search_needs_something_to_try(toy_llm):
    with pytest.raises(BadInputError, match="nothing to try"):
        session.tune(toy_llm, [], [], None, 1)
    assert issubclass(BadInputError, OutpaceError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "1", "method": "suffix"}, "version '1'"),
        ({"version": 1, "method": "suffix", "measurd": {}}, "unknown speculative setting 'measurd'"),
    ],
)
def test_files_of_settings_are_checked(settings, message):
    with pytest.raises(BadInputError, match=message):
        SpeculativeConfig.of(settings)


def test_files_of_settings_are_read():
    settings = {"version": 1, "method": "suffix", "num_draft_tokens": 7, "measured": {"speedup": 2}}
    assert SpeculativeConfig.of(settings) == SpeculativeConfig("suffix", 7)


@pytest.mark.real
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_on_the_real_model(llm, prompts):
    command = [sys.executable, "-m", "outpace", "tune", "--prompts", "p.jsonl", "--drafters", "suffix,blind", "--out", "c.json"]
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear) as process:
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert b"round 1" in first
    assert process.returncode == 130
    assert errors.endswith(b"interrupted\n")
    assert not (prompts / "c.json").exists()
