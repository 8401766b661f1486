"""The drafter draft_model: in step with the text, and no draft instead of an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from draft_model_tools import OURS, THEIRS, context, helper, letters

from outpace import SamplingParams
from outpace.drafters.base import DraftModel
from outpace.drafters.draft_model.drafter import PATIENCE, likeliest
from outpace.drafters.draft_model.price import DraftPrice
from outpace.drafters.spec import create_drafter
from outpace.sampling.sampler import RequestSampler
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, check_drafter, generate, make_request, run

PROMPTS = [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3], [5, 6, 5, 6, 5], [7]]


def drafter(target, model: DraftModel, options: str = "", tokenizer=None):
    return create_drafter(f"draft_model:helper{options}", context(target, model, tokenizer))


# ---- conformance


@pytest.mark.parametrize("options", ["", ":branches=2", ":branches=3:max_depth=3", ":min_confidence=0.5", ":max_depth=1"])
def test_the_rules_hold(options):
    check_drafter(lambda given: drafter(given.target, helper(), options))


@pytest.mark.parametrize("size", [9, 40])
def test_the_rules_hold_for_other_paddings_of_the_vocabulary(size):
    check_drafter(lambda given: drafter(given.target, helper(vocab_size=size), ":branches=2"))


@pytest.mark.parametrize("options", ["", ":vocab=shared", ":vocab=shared:branches=2"])
def test_the_rules_hold_between_tokenizers(options):
    model = DraftModel(ToyTarget(vocab_size=11, seed=3), THEIRS)
    check_drafter(lambda given: drafter(given.target, replace(model, target=ToyTarget(vocab_size=11, seed=3)), options, OURS))


@pytest.mark.parametrize("trees", [(False, True), (True, False), (False, False)])
def test_chains_where_either_has_no_trees(trees):
    ours, theirs = trees
    check_drafter(lambda given: drafter(given.target, helper(tree=theirs), ":branches=3"), ToyTarget(sharpness=3.0, tree=ours))


def test_beside_another_drafter():
    check_drafter(lambda given: create_drafter("suffix+draft_model:x", context(given.target, helper())))


# ---- reading long prompts


@pytest.mark.parametrize(("max_tokens", "is_drafted"), [(60, True), (29, False)])
def test_a_long_prompt_is_read_only_for_a_long_answer(max_tokens, is_drafted):
    target = ToyTarget(sharpness=3.0)
    prompt = [1, 2, 3] * 34
    for options, is_helping, expected in (("", True, is_drafted), ("", False, True), (":min_confidence=0", True, True)):
        model = replace(helper(), reading_cost=0.1)
        drafting = drafter(target, model, options)
        drafting.is_helping = is_helping
        request = make_request(target, prompt, SamplingParams(max_tokens=max_tokens))
        request.stats.num_steps = PATIENCE
        drafting.begin(request)
        drafting.read([request])
        assert (model.target.num_passes > 0) == expected
        assert bool(len(drafting.propose(request, 7))) == expected
        drafting.end(request)


def test_beside_others_it_waits_for_some_steps_before_it_reads():
    target, model = ToyTarget(sharpness=3.0), replace(helper(), reading_cost=0.01)
    drafting = drafter(target, model)
    drafting.is_helping = True
    request = make_request(target, [1, 2, 3] * 34, SamplingParams(max_tokens=60))
    drafting.begin(request)
    for num_steps in range(PATIENCE + 1):
        request.stats.num_steps = num_steps
        drafting.read([request])
        assert (model.target.num_passes > 0) == (num_steps == PATIENCE)
        assert bool(len(drafting.propose(request, 7))) == (num_steps == PATIENCE)


# ---- in step with the text


@pytest.mark.parametrize("depth", [1, 2, 4, 7])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_perfect_helper_is_always_right_and_never_short_of_a_token(depth, batch):
    """After full acceptance the helper has not seen the last guess: it must, or the guess after it is wrong."""
    target, model, steps = ToyTarget(sharpness=3.0), DraftModel(ToyTarget(sharpness=3.0)), 6
    guess = drafter(target, model, f":max_depth={depth}")
    params = SamplingParams(max_tokens=steps * (depth + 1))
    before = model.target.num_passes
    requests = run(target, [make_request(target, p, params, guess) for p in PROMPTS[:batch]])
    for request in requests:
        assert request.stats.num_steps == steps
        assert request.stats.num_accepted_tokens == request.stats.num_draft_tokens == steps * depth
    assert [request.output_token_ids for request in requests] == generate(target, PROMPTS[:batch], params)
    assert model.target.num_passes - before <= batch * steps * depth  # catching up costs rows, not passes
    assert model.target.cache == {}


@pytest.mark.parametrize("sharpness", [3.0, 2.0])  # of the target; the draft model's is 3: it is always right, or often wrong
def test_a_chain_runs_no_token_twice(sharpness):
    """The K/V of accepted tokens are there already: a forward pass runs the new token, and the last of a chain that was accepted whole."""
    target, model, lengths = ToyTarget(sharpness=sharpness, seed=1), DraftModel(ToyTarget(sharpness=3.0, seed=1)), []
    forward = model.target.forward

    def watched(batch, num_tokens=0):
        lengths.extend(len(segment) for segment in batch)
        return forward(batch, num_tokens)

    model.target.forward = watched
    generate(target, PROMPTS[:1], SamplingParams(max_tokens=40, temperature=0.5), drafter(target, model, ":max_depth=4"))
    assert lengths[0] == len(PROMPTS[0])
    assert set(lengths[1:]) == {1, 2}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("options", ["", ":branches=3"])
@pytest.mark.parametrize("target", [ToyTarget(sharpness=3.0), InexactTarget(sharpness=3.0), ToyTarget(sharpness=3.0, exact_trees=False)])
def test_the_cache_follows_the_text_through_rejections(target, options, temperature):
    model = helper()
    guess = drafter(target, model, options)
    propose_batch, depths = guess.propose_batch, set()

    def watched(requests, budgets):
        drafts = propose_batch(requests, budgets)
        for request, draft in zip(requests, drafts, strict=True):
            check_first(request, draft)
        return drafts

    def guess_after(request, path):
        """The likeliest draw after a path, from logits without any cache."""
        row = model.target.logits_after([*request.token_ids, *path])
        return request.sampler.foresee(row, path, len(request.token_ids) + len(path), 1)[0][0]

    def check_first(request, draft):
        """The first draft tokens must be what the draft model says without any cache."""
        slot = guess.slots[request.id]
        cached = [*slot.token_ids, *guess.left.get(request.id, ())]
        assert cached[: len(request.token_ids) - 1] == request.token_ids[:-1]
        path = list(request.unconfirmed.token_ids)
        assert draft.token_ids[0] == guess_after(request, path)
        deeper = [node for node in range(len(draft)) if draft.parents[node] == 0]
        assert not deeper or draft.token_ids[deeper[0]] == guess_after(request, [*path, draft.token_ids[0]])

    guess.propose_batch = watched
    guess.observe = lambda request, verdict, output: depths.add(len(verdict.path))
    params = SamplingParams(temperature=temperature, max_tokens=60)
    assert generate(target, PROMPTS, params, guess) == generate(target, PROMPTS, params)
    assert len(depths) >= 3  # accepted to several depths, or not at all
    assert guess.slots == {}
    assert model.target.cache == {}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_end_may_come_at_every_offset(temperature):
    target, params = ToyTarget(sharpness=3.0), SamplingParams(temperature=temperature, max_tokens=24)
    guess = drafter(target, DraftModel(ToyTarget(sharpness=3.0)), ":max_depth=4")
    whole = generate(target, PROMPTS[:1], params)[0]
    for offset, token in enumerate(whole):
        assert generate(target, PROMPTS[:1], replace(params, max_tokens=offset + 1), guess) == [whole[: offset + 1]]
        stopped = generate(target, PROMPTS[:1], replace(params, stop_token_ids=(token,)), guess)
        assert stopped == [whole[: whole.index(token) + 1]]
        count = iter(range(99))
        (request,) = run(target, [make_request(target, PROMPTS[0], params, guess, stop_check=lambda _, o=offset, c=count: next(c) == o)])
        assert (request.output_token_ids, request.finish_reason) == (whole[: offset + 1], "stop")
    assert guess.slots == {}


def test_trees_hold_the_likeliest_nodes_and_their_chances():
    target, model = ToyTarget(sharpness=3.0), helper()
    request = make_request(target, PROMPTS[0])
    draft = drafter(target, model, ":branches=3:max_depth=4").propose(request, 9)
    assert len(draft) == 9
    assert not draft.is_chain
    for node, parent in enumerate(draft.parents):
        path, at = [], parent
        while at >= 0:
            path, at = [draft.token_ids[at], *path], draft.parents[at]
        row = model.target.logits_after([*request.context, *path])
        weights = np.exp(row - row.max())
        assert draft.confidences[node] == pytest.approx(weights[draft.token_ids[node]] / weights.sum(), rel=1e-4)
        assert draft.token_ids[node] in np.argsort(-row)[:3]


def test_drafting_stops_where_a_pass_of_the_helper_costs_more_than_it_may_bring():
    target, request = ToyTarget(sharpness=3.0), make_request(ToyTarget(), PROMPTS[0])
    lengths = []
    for cost in (0.0, 0.3, 0.6, 5.0):
        draft = drafter(target, replace(helper(), pass_cost=cost)).propose(request, 7)
        lengths.append(len(draft))
        paths = np.cumprod(draft.confidences)
        least = DraftPrice(cost).min_confidence
        assert all(paths[:-1] >= least)  # every node but the last was worth another pass
        assert len(draft) == 7 or paths[-1] < least
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 7
    assert lengths[-1] >= 1
    assert len(drafter(target, replace(helper(), pass_cost=5.0), ":min_confidence=0").propose(request, 7)) == 7


# ---- no draft, never an error


def test_a_text_longer_than_the_helpers_context_decodes_plainly():
    target, params = ToyTarget(sharpness=3.0), SamplingParams(max_tokens=60)
    model = helper(max_len=40)
    guess = drafter(target, model)
    (request,) = run(target, [make_request(target, PROMPTS[0], params, guess)])
    assert request.output_token_ids == generate(target, PROMPTS[:1], params)[0]
    assert request.stats.num_draft_tokens > 0
    request.token_ids = [1] * 40
    assert len(guess.propose(request, 4)) == 0
    request.token_ids = [1] * 38
    assert len(guess.propose(request, 4)) == 2
    guess.end(request)


def test_a_helper_without_a_free_slot_leaves_the_others_alone():
    target, params = ToyTarget(sharpness=3.0), SamplingParams(max_tokens=30)
    guess = drafter(target, helper(max_slots=1))
    requests = run(target, [make_request(target, p, params, guess) for p in PROMPTS])
    assert [request.output_token_ids for request in requests] == generate(target, PROMPTS, params)
    assert requests[0].stats.num_draft_tokens > 0
    waited = sorted(request.stats.num_steps - request.stats.num_drafts for request in requests)
    assert waited[0] <= 1 < waited[1]  # who has the slot never waits, the others until it is free


def test_a_text_with_tokens_the_helper_lacks_is_not_continued():
    target = ToyTarget()
    guess = drafter(target, helper(vocab_size=6))
    request = make_request(target, [1, 2, 3])
    draft = guess.propose(request, 4)
    assert len(draft) == 4
    assert max(draft.token_ids) < 6
    request.token_ids = [1, 2, 9]
    assert len(guess.propose(request, 4)) == 0


# ---- coupled with the noise of sampled requests


class Renamed(ToyTarget):
    """Another model's vocabulary: token t here is `names[t]` there."""

    def __init__(self, names: list[int], **options):
        super().__init__(**options)
        self.names = np.array(names)

    def logits_after(self, context):
        return super().logits_after([int(self.names[token]) for token in context])[self.names]


WARM = (
    {"temperature": 0.8},
    {"temperature": 1.0, "top_p": 0.8, "top_k": 6},
    {"temperature": 1.0, "min_p": 0.05, "repetition_penalty": 1.4, "frequency_penalty": 0.8, "logit_bias": {3: -2.0}},
)


def accepted(target, model: DraftModel, params, options: str = "", tokenizer=None, seed: int = 0) -> float:
    """Share of accepted tokens among those drafted for the next position; all texts are those of plain decoding."""
    guess = drafter(target, model, f":max_depth=1{options}", tokenizer)
    requests = run(target, [make_request(target, p, params, guess, seed=seed + i) for i, p in enumerate(PROMPTS)])
    assert [request.output_token_ids for request in requests] == generate(target, PROMPTS, params, seed=seed)
    return sum(r.stats.num_accepted_tokens for r in requests) / sum(r.stats.num_drafts for r in requests)


@pytest.mark.parametrize("options", WARM, ids=str)
def test_an_equal_model_guesses_nearly_every_draw(options):
    """900 draws. The likeliest token alone is right in 55% to 75% of them."""
    params = SamplingParams(max_tokens=300, **options)
    assert accepted(ToyTarget(), DraftModel(ToyTarget()), params) > 0.9


@pytest.mark.parametrize("mapping", ["", ":vocab=shared"])
def test_the_noise_goes_by_the_targets_token_ids(mapping):
    """Two tokenizers of single letters in another order: the mapping changes nothing about what is accepted."""
    ours, theirs = letters([*"abcdefghijkl"], []), letters([*"lkfedcbaghij"], [])
    names = [ours.fast.token_to_id(theirs.fast.id_to_token(token)) for token in range(12)]
    params = SamplingParams(temperature=0.9, max_tokens=300)
    model = DraftModel(Renamed(names), theirs)
    if mapping:
        assert accepted(ToyTarget(), model, params, mapping, ours) > 0.9
    else:  # by way of text only the likeliest token is drafted
        assert 0.3 < accepted(ToyTarget(), model, params, mapping, ours) < 0.9


def test_noise_helps_a_draft_model_that_is_nearly_right(monkeypatch):
    target, params = ToyTarget(sharpness=2.0), SamplingParams(temperature=1.0, max_tokens=300)
    model = DraftModel(ToyTarget(sharpness=1.8))
    shares = {}
    for name in ("coupled", "likeliest"):
        if name == "likeliest":
            monkeypatch.setattr(RequestSampler, "foresee", lambda self, row, path, position, k: likeliest(row, k))
        shares[name] = accepted(target, model, params)
    assert shares["coupled"] > shares["likeliest"] + 0.1


def test_a_processor_that_fails_on_a_draft_model_s_logits_ends_drafting_not_the_request():
    """A grammar or a hook may refuse every token that the draft model knows."""

    def hook(token_ids, logits):
        if logits[0] == -np.inf:
            raise ValueError("not a row of the target")
        return logits

    target = ToyTarget()
    model = DraftModel(ToyTarget(vocab_size=12))
    params = SamplingParams(temperature=0.8, max_tokens=20, logits_processors=(hook,))
    guess = drafter(target, model)
    guess.translation.to_target_row = lambda row: np.full(12, -np.inf, np.float32)
    (request,) = run(target, [make_request(target, PROMPTS[0], params, guess)])
    assert (request.stats.num_draft_tokens, request.stats.drafter_error, request.error) == (0, None, None)
    assert request.output_token_ids == generate(target, PROMPTS[:1], params)[0]
