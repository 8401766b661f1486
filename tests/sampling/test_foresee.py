"""What the sampler foresees from another model's logits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.errors import OutpaceError
from outpace.params import SamplingParams
from outpace.sampling.processors import LogitBias
from outpace.sampling.sampler import RequestSampler

FEW = settings(deadline=None, derandomize=True, max_examples=60)
values = st.one_of(st.sampled_from([-np.inf, 0.0, 1.5]), st.floats(-20, 20, width=32))


@FEW
@given(
    st.lists(values, min_size=1, max_size=200).filter(lambda row: max(row) > -np.inf),
    st.sampled_from([0.0, 0.01, 0.7, 1.0, 2.0]),
    st.sampled_from([{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3}]),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_tokens_that_can_be_drawn_best_first(row, temperature, cut, num_tokens, seed):
    row, params = np.array(row, np.float32), SamplingParams(temperature=temperature, **cut)
    before, sampler = row.copy(), RequestSampler(params, seed)
    tokens, confidences = sampler.foresee(row, [], 7, num_tokens)
    possible = sampler.probabilities(row, []) > 0
    assert 1 <= len(tokens) == len(confidences) <= num_tokens
    assert len(set(tokens.tolist())) == len(tokens)
    assert possible[tokens].all() or temperature == 0
    assert (np.diff(confidences) <= 0).all()
    assert 0 < confidences[0] <= confidences.sum() <= 1 + 1e-6
    np.testing.assert_array_equal(row, before)


def test_at_temperature_0_it_is_the_softmax():
    row = np.random.default_rng(0).normal(0, 2, 300).astype(np.float32)
    tokens, confidences = RequestSampler(SamplingParams(), 0).foresee(row, [], 9, 4)
    order = np.argsort(-row)[:4]
    np.testing.assert_array_equal(tokens, order)
    np.testing.assert_allclose(confidences, np.exp(row[order]) / np.exp(row).sum(), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0])
def test_it_is_right_more_often_than_the_likeliest_token_and_knows_when(temperature):
    """Logits with an error of 0.5, as those of a good draft model. 1,500 draws: the standard deviation of a share is below 0.013, that of a
    share of one half below 0.019, so neither gap can be chance."""
    rng, n = np.random.default_rng(1), 1500
    sampler, greedy = RequestSampler(SamplingParams(temperature=temperature), 5), RequestSampler(SamplingParams(), 5)
    is_right, is_likeliest, claims = np.empty(n), np.empty(n), np.empty(n)
    for position in range(n):
        row = rng.normal(0, 2.5, 400).astype(np.float32)
        near = row + rng.normal(0, 0.5, 400).astype(np.float32)
        truth = sampler.draw(row, [], position)
        tokens, confidences = sampler.foresee(near, [], position, 2)
        is_right[position], claims[position] = tokens[0] == truth, confidences[0]
        is_likeliest[position] = greedy.foresee(near, [], position, 1)[0][0] == truth
    assert is_right.mean() > is_likeliest.mean() + 0.06
    is_sure = claims > np.median(claims)
    assert is_right[is_sure].mean() > is_right[~is_sure].mean() + 0.15


def test_the_row_is_processed_as_the_targets():
    sampler = RequestSampler(SamplingParams(temperature=1.0), 3, [LogitBias({7: 30.0, 2: -np.inf}, 20)])
    tokens, confidences = sampler.foresee(np.zeros(20, np.float32), [], 4, 20)
    assert tokens[0] == 7
    assert confidences[0] > 0.99
    assert 2 not in tokens


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("row", [[1.0, np.nan], [-np.inf, -np.inf]])
@pytest.mark.parametrize("num_tokens", [1, 2])
def test_a_row_without_a_choice_is_an_error(temperature, row, num_tokens):
    with pytest.raises(OutpaceError, match="logit"):
        RequestSampler(SamplingParams(temperature=temperature), 0).foresee(np.array(row, np.float32), [], 5, num_tokens)
