"""Candidates and the search of `outpace tune`, with a made-up clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from tune_tools import BOTH, LOOKUP, SUFFIX

from outpace.bench.workloads import Workload, rotation, spread
from outpace.config import SpeculativeConfig
from outpace.drafters import DRAFTERS
from outpace.errors import BadInputError
from outpace.tune.candidates import METHODS, PLAIN, SETTINGS, default_methods, label, named_methods, variations
from outpace.tune.search import Search
from outpace.tune.verdict import verdict


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
            stats=SimpleNamespace(decode_seconds=seconds, num_steps=1, drafter_error=None),
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
