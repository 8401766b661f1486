"""Processors: judging a draft's path is the same as having committed it, and leaves no trace."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.errors import BadInputError, OutpaceError
from outpace.params import SamplingParams
from outpace.sampling.processors import AllowedTokens, BadWords, Hook, LogitBias, MinTokens, Penalties, build_processors
from outpace.sampling.sampler import RequestSampler

FEW = settings(deadline=None, derandomize=True, max_examples=60)
VOCAB = 90
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=100)
few_tokens = st.lists(st.integers(0, 5), max_size=12)
paths = st.one_of(few_tokens, tokens)
penalties = st.builds(
    SamplingParams,
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3, 10.0]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.4, -2.0]),
)


def some_row(seed: int = 0) -> np.ndarray:
    row = np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
    row[3], row[4] = 0.0, -np.inf
    return row


def hook(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
    """Depends on every token before the row and on their order."""
    code = 0
    for token in token_ids:
        code = (code * 31 + token + 1) % VOCAB
    out = logits.copy()
    out[code] += 5.0
    return out


def build(kind: str, params: SamplingParams, prompt: list[int]):
    if kind == "penalties":
        return Penalties(params, prompt)
    if kind == "bias":
        return LogitBias({0: 3.0, 7: -math.inf}, VOCAB)
    if kind == "bad_words":
        return BadWords([[1], [2, 3], [0, 0, 4], []])
    return MinTokens(20, frozenset({2, 5})) if kind == "min_tokens" else Hook(hook, prompt)


def applied(processor, path, seed=0) -> np.ndarray:
    row = some_row(seed)
    processor.apply(row, path)
    return row


@pytest.mark.parametrize("kind", ["penalties", "bias", "min_tokens", "bad_words", "hook"])
@FEW
@given(params=penalties, prompt=paths, committed=st.lists(paths, max_size=4), path=paths, other=paths)
def test_a_path_counts_like_a_commit_and_leaves_no_trace(kind, params, prompt, committed, path, other):
    processor, plain = build(kind, params, prompt), build(kind, params, prompt)
    for block in committed:
        processor.commit(block)
        plain.commit(block)
        applied(processor, other)  # judged and rejected
    plain.commit(path)
    want = applied(plain, [])
    np.testing.assert_array_equal(applied(processor, path), want)
    np.testing.assert_array_equal(applied(processor, path), want)
    applied(processor, other)
    np.testing.assert_array_equal(applied(processor, path), want)
    for token in path:  # committed one by one, as plain decoding does
        processor.commit([token])
    np.testing.assert_array_equal(applied(processor, []), want)


@FEW
@given(params=penalties, prompt=paths, output=paths, split=st.integers(0, 100))
def test_penalties_equal_the_formula(params, prompt, output, split):
    processor = Penalties(params, prompt)
    processor.commit(output[:split])
    want = some_row()
    for token in range(VOCAB):
        count = output.count(token)
        if token in prompt or count:
            want[token] = want[token] / params.repetition_penalty if want[token] > 0 else want[token] * params.repetition_penalty
        want[token] -= params.frequency_penalty * count + (params.presence_penalty if count else 0.0)
    np.testing.assert_allclose(applied(processor, output[split:]), want, rtol=1e-5, atol=1e-5)


def test_penalties_over_more_tokens_than_the_table_starts_with():
    """The table of seen tokens grows while a path is judged, while text is committed, and shrinks back."""
    params = SamplingParams(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3)
    everything, rng = list(range(VOCAB)), np.random.default_rng(3)
    for num_prompt, num_output in ((0, 0), (3, 61), (40, 63), (64, 64), (89, 10)):
        prompt = everything[:num_prompt]
        output = rng.permutation(VOCAB).tolist()[:num_output]
        processor, plain = Penalties(params, prompt), Penalties(params, prompt)
        for token in output:
            processor.commit([token])
        for path in (everything, everything[::-1] * 2, [5], []):
            plain = Penalties(params, prompt)
            plain.commit([*output, *path])
            np.testing.assert_array_equal(applied(processor, path), applied(plain, []))
            want = some_row()
            for token in range(VOCAB):
                count = [*output, *path].count(token)
                if token in prompt or count:
                    want[token] = want[token] / 1.2 if want[token] > 0 else want[token] * 1.2
                want[token] -= 0.3 * count + 0.5 * (count > 0)
            np.testing.assert_allclose(applied(processor, path), want, rtol=1e-5, atol=1e-5)


@FEW
@given(output=few_tokens, split=st.integers(0, 12), words=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), max_size=4))
def test_a_bad_word_is_never_completed(output, split, words):
    processor = BadWords(words)
    processor.commit(output[:split])
    row, want = applied(processor, output[split:]), some_row()
    for token in range(VOCAB):
        text = [*output, token]
        if any(text[-len(word) :] == word for word in words):
            want[token] = -np.inf
    np.testing.assert_array_equal(row, want)


def test_only_allowed_tokens_stay():
    row = applied(AllowedTokens([0, 89], VOCAB), [5])
    assert np.flatnonzero(row > -np.inf).tolist() == [0, 89]
    assert row[0] == some_row()[0]
    for name, value in (("allowed_token_ids", [VOCAB]), ("bad_words_ids", [[0, VOCAB]])):
        with pytest.raises(BadInputError, match=name):
            build_processors(SamplingParams(**{name: value}), [], frozenset(), VOCAB)


@pytest.mark.parametrize("min_tokens", [1, 3, 8])
def test_min_tokens_counts_per_position(min_tokens):
    for committed in range(10):
        processor = MinTokens(min_tokens, frozenset({2, 5}))
        processor.commit([9] * committed)
        for depth in range(10):
            row = applied(processor, [9] * depth)
            is_banned = committed + depth < min_tokens
            assert [math.isinf(row[2]), math.isinf(row[5])] == [is_banned, is_banned]
            assert (row[6:] == some_row()[6:]).all()


def test_bias_adds_and_bad_bias_is_refused():
    row = applied(LogitBias({0: 3.0, 7: -math.inf, 89: -1.5}, VOCAB), [])
    want = some_row()
    want[0], want[7], want[89] = want[0] + 3, -np.inf, want[89] - 1.5
    np.testing.assert_array_equal(row, want)
    for token in (-1, VOCAB, 10**9):
        with pytest.raises(BadInputError, match="vocabulary"):
            LogitBias({token: 1.0}, VOCAB)


def test_hooks_see_the_text_up_to_their_row_and_may_write_in_place():
    seen = []

    def in_place(token_ids, logits):
        seen.append(list(token_ids))
        logits[1] = 100.0
        return logits

    processor = Hook(in_place, [1, 2])
    processor.commit([3])
    assert applied(processor, [4, 5])[1] == 100.0
    assert seen == [[1, 2, 3, 4, 5]]


def test_a_hook_that_returns_nothing_is_refused():
    def forgetful(token_ids, logits):
        logits[1] = 100.0

    with pytest.raises(BadInputError, match="must return the logits"):
        applied(Hook(forgetful, [1]), [])


def test_only_what_was_asked_for_is_built_in_a_fixed_order():
    assert build_processors(SamplingParams(min_tokens=3), [1], frozenset(), VOCAB) == []  # nothing can end the text
    assert build_processors(SamplingParams(), [1], frozenset({2}), VOCAB) == []
    params = SamplingParams(logits_processors=(hook, hook), logit_bias={1: 1.0}, presence_penalty=1.0, min_tokens=2)
    kinds = [type(processor) for processor in build_processors(params, [1], frozenset({2}), VOCAB)]
    assert kinds == [Hook, Hook, LogitBias, Penalties, MinTokens]


def test_the_sampler_applies_all_of_them_and_leaves_the_row_alone():
    params = SamplingParams(logits_processors=(hook,), logit_bias={1: 50.0}, repetition_penalty=1.2, min_tokens=9)
    sampler = RequestSampler(params, 0, build_processors(params, [1, 2], frozenset({1}), VOCAB))
    row = some_row()
    assert sampler.draw(row, [3], 3) != 1  # the bias wants token 1, min_tokens forbids it
    np.testing.assert_array_equal(row, some_row())
    sampler.commit([8] * 9)
    assert sampler.draw(row, [3], 12) == 1


def test_end_tokens_outside_the_vocabulary_are_left_out():
    """A model's config may name some; a request must not."""
    row = np.zeros(5, np.float32)
    (processor,) = build_processors(SamplingParams(min_tokens=2), [1], frozenset({3, 9}), 5)
    processor.apply(row, ())
    assert row.tolist() == [0, 0, 0, -np.inf, 0]
    assert build_processors(SamplingParams(min_tokens=2), [1], frozenset({9}), 5) == []
    for wrong in (5, 10**9):
        with pytest.raises(BadInputError, match="stop_token_ids has a token outside the vocabulary of 5"):
            build_processors(SamplingParams(min_tokens=2, stop_token_ids=[wrong]), [1], frozenset({wrong}), 5)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_settings_that_forbid_every_token_are_the_caller_s_fault(temperature):
    """Only tokens that end the answer, and those not yet; a broken model is nobody's fault."""
    params = SamplingParams(temperature=temperature, allowed_token_ids=[3], stop_token_ids=[3], min_tokens=2)
    sampler = RequestSampler(params, 0, build_processors(params, [1], frozenset({3}), VOCAB))
    for draw in (sampler.draw, lambda row, path, _: sampler.probabilities(row, path)):
        with pytest.raises(BadInputError, match="allowed_token_ids leaves no token that the other settings allow"):
            draw(some_row(), [], 5)
        with pytest.raises(OutpaceError, match="no token can be chosen") as caught:
            draw(np.full(VOCAB, -np.inf, np.float32), [], 5)
        assert not isinstance(caught.value, BadInputError)
    sampler.commit([4, 4])
    assert sampler.draw(some_row(), [], 7) == 3
