"""The engine: its invariants after every step, its limits, and that whoever fails harms nobody else."""

import pytest

from outpace.config import EngineConfig
from outpace.controller.cost import measure_verify_cost
from outpace.drafters.base import DrafterContext
from outpace.drafters.none import NoDrafter
from outpace.engine.engine import Engine
from outpace.engine.metrics import acceptance_rate, median, tokens_per_step
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.base import OutOfSlots
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, OracleDrafter, generate, make_request
from outpace.tree.draft import Draft
from outpace.tree.segment import Slot
from outpace.verifiers.exact import ExactVerifier

PROMPTS = [[1, 2, 3, 1, 2], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]
PARAMS = SamplingParams(temperature=0.7, max_tokens=20)


def oracle(target, params=PARAMS, cls=OracleDrafter, lie=0.3, width=1):
    answers = {tuple(p): generate(target, [p], params, seed=i)[0] for i, p in enumerate(PROMPTS)}
    return cls(DrafterContext(target), answers, lie, width)


def start(target, drafters, config=None, params=PARAMS, **options) -> tuple[Engine, list]:
    """An engine with one request for each prompt; `drafters` is one for all or a list."""
    engine = Engine(target, config)
    drafters = drafters if isinstance(drafters, list) else [drafters] * len(PROMPTS)
    requests = [make_request(target, p, params, d, seed=i, **options) for i, (p, d) in enumerate(zip(PROMPTS, drafters, strict=True))]
    for request in requests:
        engine.add(request)
    return engine, requests


def finish(engine) -> list:
    """Step to the end, checking the invariants after every step."""
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
        for request in engine.scheduler.running:
            slot = request.slot
            assert slot.token_ids == request.token_ids[: slot.num_cached]
            assert slot.num_cached <= len(request.token_ids) - 1
            if request.num_output_tokens:
                assert slot.num_cached == len(request.token_ids) - 1
            assert len(engine.target.cache[slot.index]) == slot.num_cached  # no rejected row lives on
        assert len(engine.target.cache) == len(engine.scheduler.running)
    assert engine.target.cache == {}
    assert engine.guard.failed == set()
    return outputs


# ---- invariants and numbers


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
        if target.capabilities.exact_trees:  # else a guess may hold one step before it gains a token
            assert sum(request.from_draft) == request.stats.num_accepted_tokens
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


def test_rates():
    assert tokens_per_step(0, 0) == acceptance_rate(0, 0) == median([]) == 0
    assert tokens_per_step(30, 10) == 3
    assert acceptance_rate(5, 20) == 0.25
    assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)


def test_verify_cost_is_measured_and_leaves_no_slot():
    target = ToyTarget()
    costs = measure_verify_cost(target, widths=(2, 4), context=20, repeats=3)
    assert [cost.num_tokens for cost in costs] == [2, 4]
    assert all(cost.milliseconds > 0 for cost in costs)
    assert target.cache == {}
    measure_verify_cost(ToyTarget(max_len=40), widths=(2, 8), context=10_000, repeats=1)  # no more context than the model has


# ---- pending tokens: predicted on rows whose bits may differ, led by the next draft


def test_pending_tokens_are_no_output_and_drafters_continue_them():
    seen = []

    class Watched(OracleDrafter):
        def begin(self, request):
            seen.append((request.id, "begin"))

        def end(self, request):
            seen.append((request.id, "end"))

        def propose(self, request, budget):
            assert request.context == [*request.token_ids, *request.unconfirmed.token_ids]
            assert budget + len(request.unconfirmed) <= min(9, request.num_tokens_left - 1)
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


# ---- whoever fails


class FailsIn:
    """Makes a drafter class that raises in one method from the second call on."""

    def __new__(cls, method: str):
        def fail(self, request, *args):
            self.calls[request.id] = self.calls.get(request.id, 0) + 1
            if method in ("num_reusable_prefix", "begin", "end") or self.calls[request.id] > 1:
                raise RuntimeError(f"{method} is broken")
            return getattr(OracleDrafter, method)(self, request, *args)

        return type("Failing", (OracleDrafter,), {method: fail, "calls": {}})


def test_a_drafter_that_cannot_settle_a_step_goes_on(caplog):
    class Unsettled(OracleDrafter):
        def end_step(self):
            raise RuntimeError("settle is broken")

    target = ToyTarget()
    engine, requests = start(target, [oracle(target, cls=Unsettled, lie=0), oracle(target, lie=0), oracle(target, lie=0)])
    finish(engine)
    assert [r.output_token_ids for r in requests] == generate(target, PROMPTS, PARAMS)
    assert "settle is broken" in caplog.text


@pytest.mark.parametrize("method", ["num_reusable_prefix", "begin", "propose", "observe", "end"])
def test_a_drafter_that_raises_costs_only_speed_of_its_own_request(method, caplog):
    target = ToyTarget()
    good, bad = oracle(target, lie=0), oracle(target, cls=FailsIn(method), lie=0)
    engine, requests = start(target, [good, bad, good])
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
        Draft([1] * 70, [-1] * 70, num_lookahead=70),  # more rows than a draft may take
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
    engine, requests = start(target, [good, Malformed(DrafterContext(target)), good])
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
    engine = Engine(target)
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
    engine = Engine(target)
    request = make_request(target, PROMPTS[0], PARAMS, drafter, stop_check=failing_stop([]))
    engine.add(request)
    delivered = [token for output in finish(engine) for token in output.token_ids]
    assert len(request.from_draft) == request.num_output_tokens
    assert request.output_token_ids == delivered


# ---- aborts


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


# ---- what can never run is refused at once


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


def test_max_len_is_the_smallest_of_three_limits():
    assert Engine(ToyTarget(max_len=64)).max_len == 64
    assert Engine(ToyTarget(max_len=64), EngineConfig(max_model_len=20)).max_len == 20
    small = ToyTarget(max_len=64)
    small.max_cached_tokens = 40
    assert Engine(small, EngineConfig(max_draft_tokens=10)).max_len == 30


# ---- the scheduler


class Recording(ToyTarget):
    """Remembers, pass by pass, (slot, rows, is it prefill) of every segment."""

    def __init__(self, **options):
        super().__init__(**options)
        self.passes = []

    def forward(self, batch, width=0):
        self.passes.append([(segment.slot.index, len(segment), not segment.wants_output) for segment in batch])
        return super().forward(batch, width)


@pytest.mark.parametrize(("max_num_seqs", "max_slots", "limit"), [(2, 64, 2), (16, 2, 2), (1, 1, 1), (16, 64, 5)])
def test_admission_is_first_come_first_served_up_to_the_limits(max_num_seqs, max_slots, limit):
    target = ToyTarget(max_slots=max_slots)
    engine = Engine(target, EngineConfig(max_num_seqs=max_num_seqs))
    requests = [make_request(target, [1, 2, i], SamplingParams(max_tokens=3 + i)) for i in range(5)]
    for request in requests:
        engine.add(request)
    while engine.has_unfinished:
        engine.step()
        unfinished = [r for r in requests if r.finish_reason is None]
        assert len(engine.scheduler.running) <= limit
        assert engine.scheduler.running == unfinished[: len(engine.scheduler.running)]
    assert [r.output_token_ids for r in requests] == [generate(target, [[1, 2, i]], SamplingParams(max_tokens=3 + i))[0] for i in range(5)]


def test_no_slot_at_all_is_an_error_and_not_an_endless_wait():
    target = ToyTarget(max_slots=0)
    engine = Engine(target)
    engine.add(make_request(target, [1]))
    with pytest.raises(OutOfSlots):
        engine.step()


@pytest.mark.parametrize(("batched", "chunk"), [(6, 2), (1, 3), (20, 1), (512, 32)])
def test_prefill_fills_the_pass_and_never_starves(batched, chunk):
    target = Recording()
    engine = Engine(target, EngineConfig(max_num_batched_tokens=batched, min_prefill_chunk=chunk))
    for n in (30, 11, 1, 17):
        engine.add(make_request(target, [1 + i % 5 for i in range(n)], SamplingParams(max_tokens=4)))
    while engine.has_unfinished:
        waiting = sum(max(0, len(r.token_ids) - 1 - r.slot.num_cached) for r in engine.scheduler.running) if target.passes else 55
        engine.step()
        prefill = sum(rows for _, rows, is_prefill in target.passes[-1] if is_prefill)
        decode = sum(rows for _, rows, is_prefill in target.passes[-1] if not is_prefill)
        room = max(chunk, batched - decode)
        assert prefill == min(room, waiting)
    first = [index for passed in target.passes for index, _, is_prefill in passed if is_prefill]
    assert first == sorted(first)  # the oldest prompt first


class Remembers(ToyTarget):
    """Finds the first 4 tokens of every prompt in a cache, as a target with prefix caching does."""

    def allocate(self, num_tokens, prompt_token_ids=()):
        slot = super().allocate(num_tokens)
        found = list(prompt_token_ids[:-1][:4])
        self.cache[slot.index] = list(zip(found, range(len(found)), strict=True))
        return Slot(slot.index, slot.capacity, found, [])


@pytest.mark.parametrize("is_on", [True, False])
def test_prefix_caching_saves_prefill_and_changes_nothing(is_on):
    target = Remembers()
    plain = generate(ToyTarget(), PROMPTS, PARAMS)
    engine, requests = start(target, oracle(ToyTarget()), EngineConfig(enable_prefix_caching=is_on))
    finish(engine)
    assert [r.output_token_ids for r in requests] == plain
    assert [r.stats.num_cached_prompt_tokens for r in requests] == ([4, 0, 4] if is_on else [0, 0, 0])
    assert engine.metrics.num_prompt_tokens == (5 if is_on else 13)


def test_decoding_goes_on_while_a_long_prompt_is_read():
    target = Recording()
    engine = Engine(target, EngineConfig(max_num_batched_tokens=8, min_prefill_chunk=4))
    quick = make_request(target, [1], SamplingParams(max_tokens=30))
    slow = make_request(target, [1 + i % 7 for i in range(60)], SamplingParams(max_tokens=2))
    for request in (quick, slow):
        engine.add(request)
    for step in range(1, 6):
        engine.step()
        assert quick.num_output_tokens == step
    assert slow.is_prefilling
    finish(engine)
