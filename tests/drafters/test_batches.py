"""Drafting for several requests at once: one forward pass for all, and nothing left behind by one that fails."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from outpace.config import EngineConfig
from outpace.drafters.base import Drafter, DrafterContext, DraftModel, SuccessorSource
from outpace.drafters.combined import CombinedDrafter
from outpace.drafters.spec import create_drafter
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import check_drafter, generate, make_request, run
from outpace.tree.draft import Draft
from outpace.tree.segment import Segment

PROMPTS = [[1, 2, 3, 4, 1, 2, 3], [5, 6, 5, 6], [7], [8, 9, 10, 8, 9]]
PARAMS = SamplingParams(max_tokens=24)
CONTINUE = EngineConfig(on_drafter_error="continue")


def draft_model_drafter(target, model, options=""):
    return create_drafter(f"draft_model:x{options}", DrafterContext(target, None, lambda name, num_layers: DraftModel(model)))


# ---- draft model


@pytest.mark.parametrize("options", ["", ":branches=3:max_depth=4"])
@pytest.mark.parametrize("long", [0, 700])
def test_a_draft_model_runs_once_per_level_for_all_requests(options, long):
    """With 4 requests it takes at most 1.3 times the forward passes of one request; prompts to catch up with included."""
    target = ToyTarget(sharpness=3.0, max_len=2000)
    prompts = [prompt + [1, 2, 3] * (long // 3) for prompt in PROMPTS]
    passes = []
    for batch in (prompts[:1], prompts):
        model = ToyTarget(sharpness=2.5, max_len=2000)
        requests = [make_request(target, prompt, PARAMS, draft_model_drafter(target, model, options)) for prompt in batch]
        for request in requests[1:]:
            request.strategy = requests[0].strategy
        run(target, requests, EngineConfig(max_num_seqs=8, max_num_batched_tokens=4096))  # all begin in the same step
        assert [request.output_token_ids for request in requests] == generate(target, batch, PARAMS)
        assert model.cache == {}
        steps = max(request.stats.num_steps for request in requests)
        passes.append(model.num_passes / steps)
    assert passes[1] <= 1.3 * passes[0]


def test_a_draft_model_runs_only_the_requests_that_draft():
    target, model, sizes = ToyTarget(sharpness=3.0), ToyTarget(sharpness=2.5), []
    forward = model.forward
    model.forward = lambda batch, num_tokens=0: sizes.append(len(batch)) or forward(batch, num_tokens)
    drafter = draft_model_drafter(target, model)
    counts = (5, 0, 5, 0)
    requests = [make_request(target, p, PARAMS, drafter, num_draft_tokens=n) for p, n in zip(PROMPTS, counts, strict=True)]
    run(target, requests, EngineConfig(max_num_seqs=8))
    assert max(sizes) == 2
    assert [request.stats.num_drafts > 0 for request in requests] == [True, False, True, False]


def test_drafts_of_a_batch_are_those_of_each_request_alone():
    target = ToyTarget(sharpness=3.0)
    together, alone = (draft_model_drafter(target, ToyTarget(sharpness=2.0), ":branches=2") for _ in range(2))
    requests = [make_request(target, prompt, PARAMS) for prompt in PROMPTS]
    for _ in range(6):
        budgets = [3, 7, 1, 5]
        drafts = together.propose_batch(requests, budgets)
        assert drafts == [alone.propose(request, budget) for request, budget in zip(requests, budgets, strict=True)]
        for request, draft in zip(requests, drafts, strict=True):
            request.token_ids += [*draft.token_ids[:1], len(request.token_ids) % 12]


class Fussy(ToyTarget):
    """A draft model that cannot run a certain request: the one whose prompt begins with 11. It fails from its 5th forward pass on."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bad = set()

    def allocate(self, num_tokens, prompt_token_ids=(), cache_salt=""):
        slot = super().allocate(num_tokens, prompt_token_ids)
        self.bad = (self.bad - {slot.index}) | ({slot.index} if prompt_token_ids[0] == 11 else set())
        return slot

    def forward(self, batch, num_tokens=0):
        output = super().forward(batch, num_tokens)
        if self.num_passes > 4 and any(segment.slot.index in self.bad for segment in batch):
            raise RuntimeError("out of memory")
        return output


@pytest.mark.parametrize("spec", ["draft_model:x", "suffix+draft_model:x:branches=2", "auto:recycling+draft_model:x"])
def test_one_request_that_fails_harms_no_other(spec):
    target, prompts = ToyTarget(sharpness=3.0), [[1, 2, 3], [11, 5, 4], [5, 6], [7, 8]]
    accepted = []
    for model in (Fussy(sharpness=3.0), ToyTarget(sharpness=3.0)):
        drafter = create_drafter(spec, DrafterContext(target, None, lambda name, num_layers, model=model: DraftModel(model)))
        requests = run(target, [make_request(target, prompt, PARAMS, drafter) for prompt in prompts], CONTINUE)
        assert [request.output_token_ids for request in requests] == generate(target, prompts, PARAMS)
        assert model.cache == {}
        accepted.append([request.stats.num_accepted_tokens for request in requests])
        error = "RuntimeError: out of memory" if isinstance(model, Fussy) else None
        assert [request.stats.drafter_error for request in requests] == [None, error, None, None]
    if not spec.startswith("auto"):  # recycling learns from all requests
        assert [accepted[0][i] for i in (0, 2, 3)] == [accepted[1][i] for i in (0, 2, 3)]


# ---- combinations


class Counted(SuccessorSource):
    """Counts who asks; names one successor, or fails for a request."""

    def __init__(self, bad: str = ""):
        self.calls, self.bad = Counter(), bad

    def prepare(self, requests):
        self.calls["prepare"] += 1
        if any(request.id == self.bad for request in requests):
            raise RuntimeError("bad request")

    def successors(self, request, path):
        self.calls["successors"] += 1
        return [(len(path) % 12, 0.9)]


class Chains(Drafter):
    def __init__(self):
        self.calls = Counter()

    def propose(self, request, budget):
        raise AssertionError("asked alone")

    def propose_batch(self, requests, budgets):
        self.calls["propose_batch"] += 1
        return [Draft.chain([3, 4, 5][:budget]) for budget in budgets]


def test_a_combination_asks_each_part_once_for_all_requests():
    source, chains = Counted(), Chains()
    drafter = CombinedDrafter([source, chains], ["source", "chains"], is_ordered=False)
    requests = [make_request(ToyTarget(), prompt) for prompt in PROMPTS]
    drafts = drafter.propose_batch(requests, [6, 6, 2, 1])
    assert (source.calls["prepare"], chains.calls["propose_batch"]) == (1, 1)
    assert [len(draft) for draft in drafts] == [6, 6, 2, 1]
    assert set(drafts[0].sources) == {"source", "chains"}
    times = drafter.take_times()
    assert set(times) == {"source", "chains"}
    assert min(times.values()) > 0
    assert set(drafter.take_times().values()) == {0.0}
    drafter.pause(["chains"])
    assert set(drafter.propose_batch(requests, [6] * 4)[0].sources) == {"source"}
    assert chains.calls["propose_batch"] == 1


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.usefixtures("real_defaults")
def test_a_part_that_fails_for_one_request(is_ordered):
    target = ToyTarget(sharpness=3.0)
    source = Counted()
    drafter = CombinedDrafter([create_drafter("suffix", DrafterContext(target)), source], ["suffix", "source"], is_ordered)
    requests = [make_request(target, prompt, PARAMS, drafter) for prompt in PROMPTS]
    source.bad = requests[1].id
    run(target, requests, EngineConfig(max_num_seqs=8))
    assert [request.output_token_ids for request in requests] == generate(target, PROMPTS, PARAMS)
    assert [request.stats.drafter_error for request in requests] == [None, "RuntimeError: bad request", None, None]
    assert all(request.stats.num_drafts > 0 for request in requests if request.stats.drafter_error is None)


# ---- what a drafter may keep


class Keeper(SuccessorSource):
    """Keeps what the target computed, and reads it in the next step."""

    def __init__(self, context, copies, what):
        self.copies, self.what, self.kept = copies, what, {}

    def successors(self, request, path):
        row = self.kept.get(request.id)
        return () if row is None or path else [(int(row["row"].argmax()), 0.5)]

    def observe(self, request, verdict, output):
        row = getattr(output, self.what)[-1]
        self.kept[request.id] = {"row": row.copy() if self.copies else row}

    def end(self, request):
        self.kept.pop(request.id, None)


@pytest.mark.parametrize("what", ["logits", "hidden"])
def test_check_drafter_catches_views_of_outputs(what):
    check_drafter(lambda context: Keeper(context, True, what))
    with pytest.raises(AssertionError, match="Keeper keeps a view of the target's output in 'kept'"):
        check_drafter(lambda context: Keeper(context, False, what))


def test_the_toy_overwrites_its_outputs():
    target = ToyTarget()
    slot = target.allocate(9)
    first = target.forward([Segment(slot, [1, 2])])
    kept, copy = first.logits[0], first.logits[0].copy()
    second = target.forward([Segment(slot, [1, 2])])
    assert np.isnan(kept).all()
    assert np.array_equal(second.logits[0], copy)
