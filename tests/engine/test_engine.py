"""The engine: its invariants after every step, its limits, unconfirmed tokens, aborts."""

from __future__ import annotations

import pytest
from engine_tools import PARAMS, PROMPTS, finish, oracle, start

from outpace.config import EngineConfig
from outpace.controller.cost import measure_verify_cost
from outpace.drafters.base import DrafterContext
from outpace.drafters.none import NoDrafter
from outpace.drafters.spec import create_drafter
from outpace.engine.engine import Engine
from outpace.engine.metrics import acceptance_rate, median, tokens_per_step
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, OracleDrafter, generate, make_request

TARGETS = [(ToyTarget, 1), (ToyTarget, 3), (lambda: ToyTarget(tree=False), 3), (lambda: InexactTarget(2), 3)]


@pytest.mark.parametrize(("build", "width"), TARGETS)
@pytest.mark.parametrize("config", [EngineConfig(), EngineConfig(max_num_seqs=2, max_num_batched_tokens=4, min_prefill_chunk=1)])
def test_invariants_and_numbers(build, width, config):
    target = build()
    engine, requests = start(target, oracle(target, width=width), config)
    outputs = finish(engine)
    metrics, stats = engine.metrics, [request.stats for request in requests]
    assert [r.finish_reason for r in requests] == ["length"] * 3
    assert metrics.num_prompt_tokens == sum(len(p) - 1 for p in PROMPTS)
    assert metrics.num_generation_tokens == sum(r.num_output_tokens for r in requests) == 60
    assert metrics.num_decode_steps == sum(s.num_steps for s in stats) == len(outputs)
    for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens"):
        assert getattr(metrics, name) == sum(getattr(s, name) for s in stats) > 0
    assert sum(metrics.num_accepted_tokens_per_pos) == metrics.num_accepted_tokens
    assert 0 not in metrics.num_accepted_tokens_per_pos
    assert metrics.num_accepted_tokens_per_pos == sorted(metrics.num_accepted_tokens_per_pos, reverse=True)
    assert metrics.draft_seconds == pytest.approx(sum(s.draft_seconds for s in stats))
    assert 0 < metrics.forward_seconds < metrics.step_seconds
    assert 0 < metrics.host_overhead < 1
    for request in requests:
        mine = [o for o in outputs if o.request is request]
        assert [t for o in mine for t in o.token_ids] == request.output_token_ids
        assert [f for o in mine for f in o.sources] == request.sources
        assert [o.finish_reason for o in mine] == [None] * (len(mine) - 1) + ["length"]
        assert request.stats.num_accepted_tokens == sum(len(o.token_ids) - 1 for o in mine)  # one of each step is the model's own
        assert request.num_output_tokens == request.stats.num_steps + request.stats.num_accepted_tokens
        assert request.stats.prefill_seconds >= 0
        assert request.stats.decode_seconds > 0
        assert request.slot is None
        assert request.num_tokens_left == 0


def test_a_step_without_work_is_free():
    engine = Engine(ToyTarget())
    assert engine.step() == []
    assert engine.metrics.num_steps == 0
    assert engine.metrics.host_overhead == 0
    assert not engine.has_unfinished


def test_budgets():
    """The smaller of what the controller allows and the rows of a draft. Never asked for nothing."""
    budgets = []

    class Watched(OracleDrafter):
        def propose(self, request, budget):
            budgets.append((budget, request.num_tokens_left))
            return super().propose(request, budget)

    target = ToyTarget()
    for allowed, rows in ((7, 64), (7, 3), (50, 64), (0, 64)):
        budgets.clear()
        engine, _ = start(target, oracle(target, cls=Watched, lie=0.5), EngineConfig(max_draft_tokens=rows), num_draft_tokens=allowed)
        finish(engine)
        assert all(budget == min(allowed, rows) > 0 and left > 1 for budget, left in budgets)
        assert bool(budgets) == (allowed > 0)


@pytest.mark.parametrize("spec", ["lookahead", "blanks:count=10", "blanks:after=every", "lookahead+recycling"])
@pytest.mark.parametrize("period", [None, 2])
def test_lookahead_tokens_without_room_are_left_out(spec, period):
    """Drafters count on the usual room of a draft; unconfirmed tokens and a small limit leave less."""
    target = ToyTarget(sharpness=3.0) if period is None else InexactTarget(period, sharpness=3.0)
    config = EngineConfig(max_draft_tokens=4, on_drafter_error="raise")
    engine, requests = start(target, create_drafter(spec, DrafterContext(target)), config, num_draft_tokens=3)
    widest = 0
    while engine.has_unfinished:
        outputs = engine.step()
        widest = max([widest, *(len(output.verdict.draft) for output in outputs)])
    assert widest == 4
    assert [request.output_token_ids for request in requests] == generate(ToyTarget(sharpness=3.0), PROMPTS, PARAMS)


def test_rates():
    assert tokens_per_step(0, 0) == acceptance_rate(0, 0) == median([]) == 0
    assert tokens_per_step(30, 10) == 3
    assert acceptance_rate(5, 20) == 0.25
    assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)


def test_verify_cost_is_measured_and_leaves_no_slot():
    target = ToyTarget()
    costs = measure_verify_cost(target, sizes=(2, 4), context=20, repeats=3)
    assert [cost.num_tokens for cost in costs] == [2, 4]
    assert all(cost.milliseconds > 0 for cost in costs)
    assert target.cache == {}
    measure_verify_cost(ToyTarget(max_len=40), sizes=(2, 8), context=10_000, repeats=1)  # no more context than the model has


def test_pending_tokens_are_no_output_and_drafters_continue_them():
    seen = []

    class Watched(OracleDrafter):
        def begin(self, request):
            seen.append((request.id, "begin"))

        def end(self, request):
            seen.append((request.id, "end"))

        def propose(self, request, budget):
            assert request.context == [*request.token_ids, *request.unconfirmed.token_ids]
            assert budget + len(request.unconfirmed) <= 9
            seen.append((request.id, len(request.unconfirmed)))
            return super().propose(request, min(budget, 8))

        def observe(self, request, verdict, output):
            assert len(output.logits) == 1 + len(verdict.draft)
            seen.append((request.id, "observe"))

    target = InexactTarget(2)
    engine, requests = start(target, oracle(target, cls=Watched, lie=0.1, width=2), EngineConfig(max_draft_tokens=9), num_draft_tokens=9)
    outputs = finish(engine)
    assert engine.metrics.num_drafts > 0
    assert [r.output_token_ids for r in requests] == generate(ToyTarget(), PROMPTS, PARAMS)
    assert [[t for o in outputs if o.request is r for t in o.token_ids] for r in requests] == [r.output_token_ids for r in requests]
    for request in requests:
        mine = [event for name, event in seen if name == request.id]
        assert mine[0] == "begin"
        assert mine[-1] == "end"
        assert mine.count("begin") == mine.count("end") > 1  # some pending tokens were wrong: the drafter started afresh
        assert any(isinstance(event, int) and event > 0 for event in mine)


@pytest.mark.parametrize("period", [2, 3])
def test_pending_tokens_count_alike_in_metrics_and_stats(period):
    target = InexactTarget(period)
    engine, requests = start(target, oracle(target, lie=0, width=3))
    finish(engine)
    assert engine.metrics.num_accepted_tokens == sum(request.stats.num_accepted_tokens for request in requests)


def test_aborts_free_the_slot_at_once_and_may_be_repeated():
    target = ToyTarget()
    ended = []

    class Watched(OracleDrafter):
        def end(self, request):
            ended.append(request.id)

    engine, requests = start(target, oracle(target, cls=Watched), EngineConfig(max_num_seqs=2))
    waiting = requests[2]
    engine.step()
    engine.step()
    engine.abort(waiting)  # never began, so the drafter has nothing to forget
    assert ended == []
    assert len(target.cache) == 2
    engine.abort(requests[0])
    assert len(target.cache) == 1
    assert ended == [requests[0].id]
    engine.abort(requests[0])
    finish(engine)
    engine.abort(requests[1])
    assert [r.finish_reason for r in requests] == ["abort", "length", "abort"]
    assert ended == [requests[0].id, requests[1].id]
    assert requests[1].output_token_ids == generate(target, PROMPTS, PARAMS)[1]


def test_abort_in_the_middle_of_prefill():
    target = ToyTarget()
    engine, requests = start(target, oracle(target), EngineConfig(max_num_batched_tokens=2, min_prefill_chunk=2))
    engine.step()
    assert requests[0].is_prefilling
    engine.abort(requests[0])
    finish(engine)
    assert [r.output_token_ids for r in requests[1:]] == generate(target, PROMPTS, PARAMS)[1:]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [
        ([], 5, "the prompt is empty"),
        ([1, 12], 5, "outside the vocabulary of 12"),
        ([-1], 5, "outside the vocabulary of 12"),
        ([1] * 60, 5, "60 prompt tokens and 5 new ones do not fit into 64"),
        ([1], 64, "1 prompt tokens and 64 new ones do not fit into 64"),
    ],
)
def test_impossible_requests(prompt, max_tokens, message):
    target = ToyTarget(max_len=64)
    engine = Engine(target)
    with pytest.raises(BadInputError, match=message):
        engine.add(make_request(target, prompt, SamplingParams(max_tokens=max_tokens)))
    assert not engine.has_unfinished


def test_the_longest_request_runs():
    target = ToyTarget(max_len=64)
    drafter = OracleDrafter(DrafterContext(target), {(1,): generate(target, [[1]], SamplingParams(max_tokens=63))[0]})
    for config in (EngineConfig(), EngineConfig(max_draft_tokens=2)):
        engine = Engine(target, config)
        engine.add(make_request(target, [1], SamplingParams(max_tokens=63), drafter))
        finish(engine)


def test_a_cache_without_room_for_any_request_is_refused_at_once():
    with pytest.raises(BadInputError, match="the K/V cache holds 65 tokens, and a request with its drafts needs at least 66"):
        Engine(ToyTarget(kv_cache_tokens=65))
    engine, requests = start(ToyTarget(kv_cache_tokens=80), NoDrafter(DrafterContext(ToyTarget())), params=SamplingParams(max_tokens=5))
    finish(engine)
    assert [request.num_output_tokens for request in requests] == [5, 5, 5]


def test_max_len_is_the_smallest_of_three_limits():
    assert Engine(ToyTarget(max_len=64)).max_len == 64
    assert Engine(ToyTarget(max_len=64), EngineConfig(max_model_len=20)).max_len == 20
    small = ToyTarget(max_len=64)
    small.max_cached_tokens = 40
    assert Engine(small, EngineConfig(max_draft_tokens=10)).max_len == 30
