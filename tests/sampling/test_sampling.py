"""Sampling: every draw equals a direct reference, and the noise depends on (seed, position) alone."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.errors import OutpaceError
from outpace.params import SamplingParams
from outpace.sampling.noise import arrival_times
from outpace.sampling.sampler import RequestSampler, logprobs_of
from tests.tools.lossless_tools import chi_square_is_fine

FEW = settings(deadline=None, derandomize=True, max_examples=80)


def reference_probabilities(row: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Temperature, then top_k, top_p, min_p, with full sorts and loops only. Equal values: the lowest index comes first."""
    row = np.asarray(row, np.float32)
    out = np.zeros(len(row))
    if params.temperature == 0:
        out[int(np.flatnonzero(row == row.max())[0])] = 1
        return out
    scaled = (row - row.max()) * np.float32(1 / params.temperature)
    weights = np.exp(scaled).astype(np.float64)
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    if params.top_k > 0:
        order = order[: params.top_k]
    if params.top_p < 1:
        goal, reached, kept = params.top_p * sum(weights[order]) * (1 - 1e-12), 0.0, []
        for token in order:
            kept.append(token)
            reached += weights[token]
            if reached >= goal:
                break
        order = kept
    order = [token for token in order if weights[token] >= params.min_p * (1 - 1e-9)]
    out[order] = weights[order]
    return out / out.sum()


def reference_draw(probabilities: np.ndarray, seed: int, position: int) -> int:
    """The token that wins the race."""
    return int(np.argmax(probabilities / arrival_times(seed, position, np.arange(len(probabilities)))))


values = st.one_of(
    st.sampled_from([-math.inf, -1e30, -1e4, -50.0, 0.0, 1.0, 1.5, 1e4, 1e30]),  # ties and extremes
    st.floats(-20, 20, width=32),
)
rows = st.lists(values, min_size=2, max_size=300).filter(lambda row: max(row) > -math.inf)
cuts = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.01, 0.5, 0.8, 1.0, 2.0, 100.0]),
    top_k=st.sampled_from([-1, 0, 1, 2, 5, 40, 10_000]),
    top_p=st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.1, 1e-9]),
    min_p=st.sampled_from([0.0, 1e-4, 0.05, 0.3, 1.0]),
)


@FEW
@given(
    st.lists(values, min_size=2, max_size=300).filter(lambda row: max(row) > -math.inf),
    cuts,
    st.integers(0, 2**63 - 1),
    st.integers(0, 5000),
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_draw_and_probabilities_equal_the_reference(row, params, seed, position):
    row = np.array(row, np.float32)
    before = row.copy()
    sampler = RequestSampler(params, seed)
    want = reference_probabilities(row, params)
    got = sampler.probabilities(row, [])
    assert set(np.flatnonzero(got)) == set(np.flatnonzero(want))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert sampler.draw(row, [], position) == (reference_draw(want, seed, position) if params.temperature else row.argmax())
    np.testing.assert_array_equal(row, before)  # the caller's row is not written


@pytest.mark.parametrize("vocab_size", [2, 63, 64, 65, 4096, 50_000])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_large_random_rows(vocab_size, spread):
    rng = np.random.default_rng(vocab_size)
    row = rng.normal(0, spread, vocab_size).astype(np.float32)
    row[rng.integers(0, vocab_size, vocab_size // 4)] = -np.inf
    row[vocab_size // 2] = 0.0
    row[: vocab_size // 8] = np.round(row[: vocab_size // 8], 1)  # many ties
    for options in (
        {},
        {"top_k": 50},
        {"top_k": vocab_size - 1},
        {"top_p": 0.95},
        {"top_p": 0.5},
        {"min_p": 0.1},
        {"top_k": 200, "top_p": 0.9, "min_p": 0.02},
    ):
        params = SamplingParams(temperature=0.9, **options)
        want, sampler = reference_probabilities(row, params), RequestSampler(params, 7)
        got = sampler.probabilities(row, [])
        np.testing.assert_array_equal(np.flatnonzero(got), np.flatnonzero(want))
        np.testing.assert_allclose(got, want, rtol=1e-5)
        for position in range(5):
            assert sampler.draw(row, [], position) == reference_draw(want, 7, position), options


def test_temperature_zero_takes_the_first_of_equal_maxima():
    assert RequestSampler(SamplingParams(), 0).draw(np.array([1, 3, 3, 2], np.float32), [], 5) == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-20])
@pytest.mark.filterwarnings("ignore:overflow")
def test_tiny_temperatures_are_greedy(temperature):
    row = np.array([1.0, 4.0, 3.9, -np.inf], np.float32)
    sampler = RequestSampler(SamplingParams(temperature=temperature), 3)
    assert [sampler.draw(row, [], position) for position in range(50)] == [1] * 50


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid", "ignore:divide")
def test_the_tiniest_temperature_is_greedy():
    sampler = RequestSampler(SamplingParams(temperature=1e-40), 3)
    assert sampler.draw(np.array([1.0, 4.0, 3.9], np.float32), [], 0) == 1
    assert np.isfinite(sampler.probabilities(np.array([1.0, 4.0, 3.9], np.float32), [])).all()


# ---- noise


@pytest.mark.parametrize("options", [{}, {"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.1}])
@pytest.mark.parametrize("varied", ["seed", "position"])
def test_draws_have_the_right_distribution(options, varied):
    params = SamplingParams(temperature=0.7, **options)
    row = np.random.default_rng(1).normal(0, 1, 20).astype(np.float32)
    want = reference_probabilities(row, params)
    n = 8000
    draws = [RequestSampler(params, i if varied == "seed" else 3).draw(row, [], 4 if varied == "seed" else i) for i in range(n)]
    counts = np.bincount(draws, minlength=20)
    assert not counts[want == 0].any()
    possible = want > 0
    assert chi_square_is_fine(counts[possible], want[possible] * n)


def test_a_draw_depends_on_nothing_that_happened_before():
    params, rng = SamplingParams(temperature=1.0), np.random.default_rng(2)
    rows = rng.normal(0, 1, (30, 50)).astype(np.float32)
    in_order = [RequestSampler(params, 11).draw(row, [], i) for i, row in enumerate(rows)]
    used = RequestSampler(params, 11)
    backwards = [used.draw(rows[i], [], i) for i in reversed(range(30)) for _ in range(2)][::2]
    assert backwards[::-1] == in_order
    assert [used.draw(row, [1, 2, 3], i) for i, row in enumerate(rows)] == in_order  # the path only matters to processors
    assert len(Counter(used.draw(rows[0], [], i) for i in range(50))) > 5


# ---- log-probabilities


@FEW
@given(st.lists(st.one_of(values.filter(lambda v: abs(v) < 1e5 or v == -math.inf)), min_size=2, max_size=200), st.data())
def test_logprobs(row, data):
    row = np.array(row, np.float32)
    row[0] = 0.0
    token, num_top = data.draw(st.integers(0, len(row) - 1)), data.draw(st.integers(0, len(row) + 3))
    got = logprobs_of(row, token, num_top)
    exact = row.astype(np.float64) - row.max()
    exact -= math.log(np.exp(exact).sum())
    best = sorted(range(len(row)), key=lambda t: (-row[t], t))[:num_top]
    assert list(got) == list(dict.fromkeys([token, *best]))  # the chosen one first, then the best in order
    for t, value in got.items():
        assert value == pytest.approx(exact[t], abs=1e-3 if abs(row).max() > 1e3 else 1e-5)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_k": 2}])
@pytest.mark.parametrize("row", [[1.0, math.nan, 2.0], [math.nan] * 3, [-math.inf] * 3, [-math.inf, math.nan, -math.inf]])
def test_a_row_without_a_choice_is_an_error(options, row):
    sampler = RequestSampler(SamplingParams(**options), 0)
    message = "the logits are NaN" if any(map(math.isnan, row)) else "no token can be chosen: the largest logit is -inf"
    for look in (lambda row: sampler.draw(row, [], 5), lambda row: sampler.probabilities(row, [])):
        with pytest.raises(OutpaceError, match=message):
            look(np.array(row, np.float32))


def test_infinite_logits():
    """+inf can be chosen, but has no probability among others."""
    row = np.array([0.0, math.inf, 1.0], np.float32)
    assert RequestSampler(SamplingParams(), 0).draw(row, [], 5) == 1
    with pytest.raises(OutpaceError, match="the largest logit is inf"):
        RequestSampler(SamplingParams(temperature=1), 0).draw(row, [], 5)
