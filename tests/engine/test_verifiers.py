"""Verifiers: what they declare is true, and the tests that say so can fail."""

import re
from dataclasses import replace

import numpy as np
import pytest

from outpace.drafters.base import DrafterContext, DraftModel
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import (
    FALSE_ALARM,
    AcceptEverythingVerifier,
    OracleDrafter,
    SampledDrafter,
    check_verifier,
    distribution_test,
    exact_distribution,
    generate,
    make_request,
)
from outpace.tree.draft import EMPTY_DRAFT, Draft, Verdict
from outpace.verifiers import VERIFIERS, create_verifier
from outpace.verifiers.exact import ExactVerifier

WARM = SamplingParams(temperature=1.0, max_tokens=5)


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_verifier_is_what_it_declares(name):
    check_verifier(create_verifier(name))


def test_unknown_verifier():
    with pytest.raises(BadInputError, match="unknown verifier 'exakt'; known: exact, typical"):
        create_verifier("exakt")


# ---- distributions beyond check_verifier: everything that warps probabilities


def hook(token_ids, logits):
    return logits + np.float32(0.7) * (np.arange(len(logits)) == sum(token_ids) % len(logits))


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.5, max_tokens=5, top_k=3),
        SamplingParams(temperature=0.7, max_tokens=5, top_p=0.8, repetition_penalty=1.5, frequency_penalty=0.5, logits_processors=(hook,)),
    ],
)
def test_warped_distributions_are_kept(width, params):
    result = distribution_test("exact", lambda context: SampledDrafter(context, width), params, num_requests=3000)
    assert result.passed, result


@pytest.mark.parametrize("branches", [1, 3])
def test_a_drafter_that_knows_the_noise_keeps_the_distribution(branches):
    """It drafts what the noise favours, so an error in who decides would show here."""

    def build(context):
        helper = DraftModel(ToyTarget(vocab_size=context.vocab_size, sharpness=0.5))
        return create_drafter(f"draft_model:x:branches={branches}", replace(context, load_draft_model=lambda name, num_layers: helper))

    result = distribution_test("exact", build, num_requests=3000)
    assert result.passed, result


# ---- negative controls: each has one typical mistake, and must be caught


class TriesTwice(ExactVerifier):
    """Draws once more where no child was drawn, and accepts a child that this gives."""

    def verify(self, request, draft, logits):
        verdict = super().verify(request, draft, logits)
        tokens, node = [draft.token_ids[n] for n in verdict.path], verdict.path[-1] if verdict.path else -1
        again = request.sampler.draw(logits[node + 1], tokens, (1 << 20) + len(tokens))
        return Verdict(draft, verdict.path, again if again in draft.children().get(node, {}) else verdict.next_token)


class RootRow(ExactVerifier):
    """Draws the bonus token from the wrong row."""

    def verify(self, request, draft, logits):
        verdict = super().verify(request, draft, logits)
        tokens = [draft.token_ids[node] for node in verdict.path]
        return Verdict(draft, verdict.path, request.sampler.draw(logits[0], tokens, len(request.token_ids) + len(tokens)))


@pytest.mark.parametrize(
    ("verifier", "build"),
    [
        (AcceptEverythingVerifier, SampledDrafter),
        (AcceptEverythingVerifier, lambda c: OracleDrafter(c, {(1, 2, 0): [3, 1, 2, 0, 1]}, 0.2)),
        (TriesTwice, SampledDrafter),
        (TriesTwice, lambda context: SampledDrafter(context, 3)),
        (RootRow, SampledDrafter),
    ],
)
def test_wrong_verifiers_fail_the_distribution_test(verifier, build):
    result = distribution_test(verifier(), build)
    assert not result.passed
    assert result.p_value < FALSE_ALARM
    assert re.fullmatch(r"4,000 answers, chi-square \d+\.\d, limit \d+\.\d", str(result))


@pytest.mark.parametrize("verifier", [AcceptEverythingVerifier, TriesTwice, RootRow])
def test_check_verifier_catches(verifier):
    with pytest.raises(AssertionError, match=verifier.__name__):
        check_verifier(verifier())


def test_check_verifier_catches_paths_that_are_none():
    class Lossy(ExactVerifier):
        same_text = lossless = False

    class Jumps(Lossy):
        def verify(self, request, draft, logits):
            return Verdict(draft, [3] if len(draft) > 4 and draft.num_lookahead else [], 0)

    class AcceptsProbes(Lossy):
        def verify(self, request, draft, logits):
            return super().verify(request, Draft(draft.token_ids, draft.parents), logits)

    with pytest.raises(AssertionError, match="no path"):
        check_verifier(Jumps())
    with pytest.raises(AssertionError, match="probe"):
        check_verifier(AcceptsProbes())


def test_the_p_value_of_a_right_verifier_is_ordinary():
    """Were it always near 1, the test would compare things that are equal by construction."""
    p_values = [
        distribution_test("exact", SampledDrafter, SamplingParams(temperature=t, max_tokens=5), 1500).p_value for t in (0.6, 1.0, 2.0)
    ]
    assert all(1e-4 < p < 1 - 1e-4 for p in p_values), p_values


def test_exact_probabilities_add_up():
    target = ToyTarget(vocab_size=4, sharpness=1.0)
    known = exact_distribution(target, [1, 2, 0], SamplingParams(temperature=1.0, top_k=2), 3)
    assert len(known) == 2**3
    assert sum(known.values()) == pytest.approx(1)


# ---- single verdicts


def one_verdict(name, draft, prompt=(1, 2, 3), params=None) -> tuple[Verdict, list[int]]:
    """The verdict on a hand-made draft, and the plain continuation."""
    target = ToyTarget()
    request = make_request(target, prompt, params, seed=5)

    def tokens(node: int) -> list[int]:
        return [] if node < 0 else [*tokens(draft.parents[node]), draft.token_ids[node]]

    logits = np.array([target.logits_after([*prompt, *tokens(node)]) for node in range(-1, len(draft))])
    return create_verifier(name).verify(request, draft, logits), generate(target, [prompt], params, seed=5)[0]


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_no_draft_means_one_plain_token(name, temperature):
    verdict, plain = one_verdict(name, EMPTY_DRAFT, params=SamplingParams(temperature=temperature))
    assert verdict.path == []
    if create_verifier(name).same_text or temperature == 0:
        assert verdict.next_token == plain[0]


@pytest.mark.parametrize("name", VERIFIERS)
def test_the_true_path_is_found_among_wrong_and_equal_siblings(name):
    _, plain = one_verdict(name, EMPTY_DRAFT)
    a, b, c = plain[:3]
    wrong = (a + 1) % 12
    #            0      1  2  3      4  5  6
    draft = Draft([wrong, a, a, (b + 1) % 12, b, b, c], [-1, -1, -1, 1, 1, 2, 5], num_lookahead=1)
    verdict, _ = one_verdict(name, draft)
    assert (verdict.path, verdict.next_token) == ([1, 4], c)  # of equal siblings the first counts; a probe is never accepted


def test_typical_at_temperature_0_equals_plain():
    target = ToyTarget()
    context, prompts = DrafterContext(target), [[1, 2, 3], [4], [5, 5]]
    params = SamplingParams(max_tokens=60)
    plain = generate(target, prompts, params)
    answers = {tuple(prompt): tokens for prompt, tokens in zip(prompts, plain, strict=True)}
    for width in (1, 3):
        assert generate(target, prompts, params, OracleDrafter(context, answers, 0.3, width), "typical") == plain
    assert not create_verifier("typical").lossless
