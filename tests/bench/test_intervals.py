"""Intervals of speedups and the verdict: evidence wins, luck does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tune_tools import BOTH, LOOKUP, STEADY, SUFFIX, samples

from outpace.bench.intervals import Estimate, Sample, advantage, speedup
from outpace.tune.candidates import PLAIN
from outpace.tune.verdict import Tried, verdict


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
