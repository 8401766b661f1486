"""Verifiers: what they declare is true, and the tests that say so can fail."""

import numpy as np
import pytest

from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.sampling.sampler import inverse_cdf
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
    run,
)
from outpace.tree.draft import EMPTY_DRAFT, Draft, Verdict
from outpace.verifiers import VERIFIERS, create_verifier
from outpace.verifiers.exact import ExactVerifier
from outpace.verifiers.rejection import FINAL_DRAW, RejectionVerifier

WARM = SamplingParams(temperature=1.0, max_tokens=5)


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_verifier_is_what_it_declares(name):
    check_verifier(create_verifier(name))


def test_unknown_verifier():
    with pytest.raises(BadInputError, match="unknown verifier 'exakt'; known: exact, rejection, typical"):
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
def test_rejection_keeps_warped_distributions(width, params):
    result = distribution_test("rejection", lambda context: SampledDrafter(context, width), params, num_requests=3000)
    assert result.passed, result


def test_rejection_keeps_the_distribution_of_deterministic_drafters():
    for build in (lambda c: create_drafter("prompt_lookup", c), lambda c: create_drafter("blind", c), lambda c: SampledDrafter(c, 4)):
        result = distribution_test("rejection", build, num_requests=2000)
        assert result.passed, result


def acceptance(verifier, width: int = 1) -> float:
    """Share of steps in which one of `width` siblings was accepted."""
    target = ToyTarget(vocab_size=4, sharpness=1.0)
    drafter = SampledDrafter(DrafterContext(target), width, sharpness=1.0)
    requests = run(target, [make_request(target, [1, 2], WARM, drafter, verifier, width, seed) for seed in range(400)])
    return sum(r.stats.num_accepted_tokens for r in requests) / sum(r.stats.num_drafts for r in requests)


def test_rejection_accepts_more_than_exact_for_sampled_drafts():
    """The reason why it exists; siblings add to it."""
    assert acceptance("rejection") > acceptance("exact") + 0.1
    assert acceptance("rejection", 2) > acceptance("rejection") + 0.1


# ---- negative controls: each has one typical mistake, and must be caught


class KeepsResidual(RejectionVerifier):
    """After a rejection the final token is drawn from p, not from what is left of it."""

    def verify(self, request, draft, logits):
        verdict = super().verify(request, draft, logits)
        row = verdict.path[-1] + 1 if verdict.path else 0
        tokens = [draft.token_ids[node] for node in verdict.path]
        p = request.sampler.probabilities(logits[row], tokens)
        u = request.sampler.uniform(len(request.token_ids) + len(tokens), FINAL_DRAW)
        return Verdict(draft, verdict.path, inverse_cdf(p, u))


class ForgetsTried(RejectionVerifier):
    """Siblings are judged as if they had been drawn with replacement."""

    @staticmethod
    def _draft_distribution(draft, child, tried, vocab_size):
        return RejectionVerifier._draft_distribution(draft, child, [], vocab_size)


class SameCoin(RejectionVerifier):
    """Uses one random number for the coin and for the final token."""

    def verify(self, request, draft, logits):
        class Sampler:
            probabilities = staticmethod(request.sampler.probabilities)

            @staticmethod
            def uniform(position, draw):
                return request.sampler.uniform(position, 1)

        class Stub:
            token_ids, sampler = request.token_ids, Sampler

        return super().verify(Stub, draft, logits)


class RootRow(ExactVerifier):
    """Draws the bonus token from the wrong row."""

    def verify(self, request, draft, logits):
        verdict = super().verify(request, draft, logits)
        tokens = [draft.token_ids[node] for node in verdict.path]
        return Verdict(draft, verdict.path, request.sampler.draw(logits[0], tokens, len(request.token_ids) + len(tokens)))


def build_tree(context):
    return SampledDrafter(context, 3)


@pytest.mark.parametrize(
    ("verifier", "build"),
    [
        (AcceptEverythingVerifier, SampledDrafter),
        (AcceptEverythingVerifier, lambda c: OracleDrafter(c, {(1, 2, 0): [3, 1, 2, 0, 1]}, 0.2)),
        (KeepsResidual, SampledDrafter),
        (ForgetsTried, build_tree),
        (SameCoin, SampledDrafter),
        (RootRow, SampledDrafter),
    ],
)
def test_wrong_verifiers_fail_the_distribution_test(verifier, build):
    result = distribution_test(verifier(), build)
    assert not result.passed
    assert result.p_value < FALSE_ALARM


@pytest.mark.parametrize("verifier", [AcceptEverythingVerifier, KeepsResidual, RootRow])
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
