"""Whoever fails harms nobody else, and every failure is visible."""

from __future__ import annotations

import pytest
from engine_tools import PARAMS, PROMPTS, finish, oracle, start

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext, PromptObserver, StepObserver
from outpace.drafters.none import NoDrafter
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.sampling.processors import MinTokens
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, OracleDrafter, generate, make_request
from outpace.tree.draft import Draft
from outpace.verifiers.exact import ExactVerifier

CONTINUE = EngineConfig(on_drafter_error="continue")


class FailsIn:
    """Makes a drafter class that raises in one method from the second call on."""

    def __new__(cls, method: str):
        def fail(self, request, *args):
            self.calls[request.id] = self.calls.get(request.id, 0) + 1
            if method in ("num_reusable_prefix", "begin", "end") or self.calls[request.id] > 1:
                raise RuntimeError(f"{method} is broken")
            return getattr(OracleDrafter, method)(self, request, *args)

        base = (OracleDrafter, PromptObserver) if method == "num_reusable_prefix" else (OracleDrafter,)
        return type("Failing", base, {method: fail, "calls": {}, "observe_prompt": lambda *_: None})


def test_a_drafter_that_cannot_end_a_step_costs_only_speed(caplog):
    class Unsettled(OracleDrafter, StepObserver):
        def end_step(self):
            raise RuntimeError("end_step is broken")

    target = ToyTarget()
    engine, requests = start(target, [oracle(target, cls=Unsettled, lie=0), oracle(target, lie=0), oracle(target, lie=0)], CONTINUE)
    finish(engine)
    assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, PARAMS)
    assert "end_step is broken" in caplog.text


@pytest.mark.parametrize("method", ["num_reusable_prefix", "begin", "propose", "observe", "end"])
def test_a_drafter_that_raises_costs_only_speed_of_its_own_request(method, caplog):
    target = ToyTarget()
    good, bad = oracle(target, lie=0), oracle(target, cls=FailsIn(method), lie=0)
    engine, requests = start(target, [good, bad, good], CONTINUE)
    finish(engine)
    assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, PARAMS)
    assert [r.finish_reason for r in requests] == ["length"] * 3
    assert [r.error for r in requests] == [None] * 3
    assert requests[0].stats.num_steps == requests[2].stats.num_steps == 3
    assert requests[1].stats.num_steps == {"num_reusable_prefix": 20, "begin": 20, "propose": 13, "observe": 6, "end": 3}[method]
    assert sum(f"{method} is broken" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize(
    "draft",
    [
        Draft([1] * 9, range(-1, 8)),  # over the budget
        Draft([1, 12], [-1, 0]),  # outside the vocabulary
        Draft([1, -1], [-1, 0]),
        Draft([1, 2], [1, -1]),  # a child before its parent
        Draft([1, 2], [-1]),
        Draft([1], [-1], num_lookahead=2),
        None,
        [1, 2],
    ],
)
def test_a_malformed_draft_costs_only_speed(draft, caplog):
    class Malformed(NoDrafter):
        num_draft_tokens = 7

        def propose(self, request, budget):
            return draft

    target = ToyTarget()
    good = oracle(target, lie=0)
    engine, requests = start(target, [good, Malformed(DrafterContext(target)), good], CONTINUE)
    finish(engine)
    assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, PARAMS)
    assert requests[1].stats.num_draft_tokens == 0
    assert sum("continues without it" in record.getMessage() for record in caplog.records) == 1


class FailingVerifier(ExactVerifier):
    def verify(self, request, draft, logits):
        if request.num_output_tokens > 5:
            raise RuntimeError("the verifier is broken")
        return super().verify(request, draft, logits)


def failing_hook(token_ids, logits):
    if len(token_ids) > 12:
        raise RuntimeError("the hook is broken")
    return logits


def failing_stop(told):
    def stop(token):
        told.append(token)
        if len(told) > 9:
            raise RuntimeError("the stop check is broken")
        return False

    return stop


@pytest.mark.parametrize("kind", ["verifier", "hook", "stop check"])
def test_an_error_ends_only_its_own_request(kind, caplog):
    target, told = ToyTarget(), []
    ended = []

    class Watched(OracleDrafter):
        def end(self, request):
            ended.append(request.id)

    good = oracle(target, cls=Watched)
    params = SamplingParams(temperature=0.7, max_tokens=20, logits_processors=(failing_hook,) if kind == "hook" else ())
    engine = Engine(target, CONTINUE)
    requests = [make_request(target, p, PARAMS, good, seed=i) for i, p in enumerate(PROMPTS)]
    verifier = FailingVerifier() if kind == "verifier" else "exact"
    stop = failing_stop(told) if kind == "stop check" else None
    requests[1] = bad = make_request(target, PROMPTS[1], params, good, verifier, seed=1, stop_check=stop)
    for request in requests:
        engine.add(request)
    outputs = finish(engine)
    plain = generate(target, PROMPTS, PARAMS)
    assert [requests[i].output_token_ids for i in (0, 2)] == [plain[i] for i in (0, 2)]
    assert bad.finish_reason == "error"
    assert str(bad.error) == f"the {kind} is broken"
    assert bad.output_token_ids == plain[1][: bad.num_output_tokens]  # what came before is right
    assert [o.finish_reason for o in outputs if o.request is bad][-1] == "error"
    assert sorted(ended) == sorted(r.id for r in requests)
    assert f"the {kind} is broken" in caplog.text


def test_after_an_error_in_a_block_the_output_is_what_was_delivered():
    target = ToyTarget()
    drafter = oracle(target, lie=0)
    engine = Engine(target, CONTINUE)
    request = make_request(target, PROMPTS[0], PARAMS, drafter, stop_check=failing_stop([]))
    engine.add(request)
    delivered = [token for output in finish(engine) for token in output.token_ids]
    assert len(request.from_draft) == request.num_output_tokens
    assert request.output_token_ids == delivered


@pytest.mark.parametrize("method", ["begin", "propose", "observe", "end"])
def test_a_failing_drafter_is_counted_named_and_logged_once_with_its_trace(method, caplog):
    target = ToyTarget()
    engine, requests = start(target, oracle(target, cls=FailsIn(method), lie=0), CONTINUE)
    finish(engine)
    assert engine.metrics.num_drafter_errors == 3
    assert {request.stats.drafter_error for request in requests} == {f"RuntimeError: {method} is broken"}
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].exc_info[0] is RuntimeError


@pytest.mark.parametrize("method", ["num_reusable_prefix", "begin", "propose", "observe", "end"])
def test_a_failing_drafter_raises_where_that_is_asked_for(method):
    target = ToyTarget()
    engine, _ = start(target, oracle(target, cls=FailsIn(method), lie=0), EngineConfig(on_drafter_error="raise"))
    with pytest.raises(RuntimeError, match=f"{method} is broken"):
        finish(engine)


def test_a_batch_that_fails_is_asked_again_one_by_one(caplog):
    """Only the request that the drafter cannot draft for goes on plainly."""

    class FailsForOne(OracleDrafter):
        def propose_batch(self, requests, budgets):
            if any(request.token_ids[0] == 4 for request in requests):
                raise RuntimeError("4 is too much")
            return super().propose_batch(requests, budgets)

    target = ToyTarget()
    engine, requests = start(target, oracle(target, cls=FailsForOne, lie=0), CONTINUE)
    finish(engine)
    assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, PARAMS)
    assert [r.stats.drafter_error is None for r in requests] == [True, False, True]
    assert [r.stats.num_steps for r in requests] == [3, 20, 3]


def test_a_batch_of_the_wrong_size_costs_only_speed():
    class Forgets(OracleDrafter):
        def propose_batch(self, requests, budgets):
            return []

    target = ToyTarget()
    engine, requests = start(target, oracle(target, cls=Forgets, lie=0), CONTINUE)
    finish(engine)
    assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, PARAMS)
    assert all("propose_batch returned 0 drafts" in r.stats.drafter_error for r in requests)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("period", [None, 2, 3])
@pytest.mark.parametrize("last", range(6, 16))
def test_a_request_that_fails_keeps_what_was_verified_before_with_every_drafter_the_same(last, period, width):
    """Plain decoding delivers every token before the row on which the hook fails; so does every drafter."""

    def hook(token_ids, logits):
        if len(token_ids) > last:
            raise RuntimeError("the hook is broken")
        return logits

    target = ToyTarget() if period is None else InexactTarget(period)
    params = SamplingParams(temperature=0.7, max_tokens=20, logits_processors=(hook,))
    delivered = []
    for drafter in (None, oracle(target, lie=0, width=width), oracle(target, lie=0.3, width=width)):
        engine = Engine(target, CONTINUE)
        request = make_request(target, PROMPTS[0], params, drafter)
        engine.add(request)
        outputs = finish(engine)
        assert [token for output in outputs for token in output.token_ids] == request.output_token_ids
        assert len(request.sources) == request.num_output_tokens
        assert (request.finish_reason, str(request.error)) == ("error", "the hook is broken")
        delivered.append(request.output_token_ids)
    assert delivered[0] == delivered[1] == delivered[2]
    assert len(delivered[0]) == last - len(PROMPTS[0]) + 1


def test_a_processor_that_cannot_shape_a_draft_is_not_the_drafter_s_fault():
    class Stubborn(MinTokens):
        def shape(self, draft, request, budget, limit):
            raise RuntimeError("the shape is broken")

    target = ToyTarget()
    request = make_request(target, PROMPTS[0], PARAMS, oracle(target, lie=0))
    request.sampler.processors.append(Stubborn(0, frozenset()))
    engine = Engine(target, CONTINUE)
    engine.add(request)
    finish(engine)
    assert request.output_token_ids == generate(target, PROMPTS[:1], PARAMS)[0]
    assert (request.stats.drafter_error, engine.metrics.num_drafter_errors) == (None, 0)
