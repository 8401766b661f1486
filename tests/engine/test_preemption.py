"""Requests that give way when the K/V cache is full: they go on later, and every text is that of the request alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from engine_tools import finish
from helper_tools import fitted_eagle, fitted_medusa
from hooks import hook
from hypothesis import given, settings
from hypothesis import strategies as st
from lossless_tools import toy

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext, DraftModel
from outpace.drafters.spec import create_drafter
from outpace.engine.engine import Engine
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.targets.base import OutOfSlots
from outpace.targets.toy import ToyTarget
from outpace.testing import InexactTarget, generate, make_request

LONGEST = 110  # tokens of a prompt with its answer
ROOM = EngineConfig.max_draft_tokens
STRICT = EngineConfig(on_drafter_error="raise")


def alone(request, params, seed):
    """(text, finish reason, log-probabilities of answer and prompt) of a request that never waits."""
    target = toy()
    other = make_request(target, request.token_ids[: request.num_prompt_tokens], params, seed=seed)
    engine = Engine(target)
    engine.add(other)
    finish(engine)
    return result(other)


def result(request):
    return request.output_token_ids, request.finish_reason, request.logprobs, request.prompt_logprobs


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """kind -> a folder with heads that are partly right on the toy model."""
    folder = tmp_path_factory.mktemp("heads")
    fitted_medusa(toy(), [[1, 2, 3], [4, 5]]).save_pretrained(folder / "medusa")
    fitted_eagle(toy(), [[1, 2, 3], [4, 5]]).save_pretrained(folder / "eagle")
    return {"MEDUSA": str(folder / "medusa"), "EAGLE": str(folder / "eagle")}


SPECS = [
    "none",
    "prompt_lookup",
    "suffix",
    "suffix:memory=200+recycling",
    "recycling",
    "lookahead",
    "blanks:after=every",
    "blind:tokens=frequent",
    "medusa:MEDUSA",
    "eagle:EAGLE",
    "recycling+eagle:EAGLE",
    "draft_model:x",
    "draft_model:x:branches=3",
    "prediction+suffix",
]


def drafter_of(spec, target, heads):
    for name, folder in heads.items():
        spec = spec.replace(name, folder)
    model = DraftModel(ToyTarget(sharpness=2.5, kv_cache_tokens=300))
    return create_drafter(spec, DrafterContext(target, None, lambda name, num_layers: model))


KINDS = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=0.8, logprobs=2),
    "stopped": SamplingParams(temperature=0.8, stop_token_ids=(2, 9), min_tokens=3),
    "penalised": SamplingParams(temperature=0.8, frequency_penalty=0.4, repetition_penalty=1.2, logit_bias={1: 1.0}),
    "hooked": SamplingParams(logits_processors=(hook,)),
    "prompted": SamplingParams(prompt_logprobs=1),
}


def load(target, dice, drafters, num_requests=6):
    """Requests of random lengths and kinds, with the step at which each arrives."""
    arrivals = []
    for seed in range(num_requests):
        length = dice.randrange(1, 20)
        params = replace(dice.choice(list(KINDS.values())), max_tokens=dice.randrange(20, LONGEST - length))
        prompt = [dice.randrange(12) for _ in range(length)]
        request = make_request(target, prompt, params, dice.choice(drafters), seed=seed)
        request.prediction = [dice.randrange(12) for _ in range(20)]
        request.cache_salt = dice.choice(["", "a"])
        arrivals.append((dice.randrange(20), request, params, seed))
    return arrivals


def serve(engine, arrivals):
    """Run all of them; what each got step by step must be its text at the end, and the texts those of each request alone."""
    waiting, got, step = sorted(arrivals, key=lambda arrival: arrival[0]), {}, 0
    while waiting or engine.has_unfinished:
        while waiting and waiting[0][0] <= step:
            engine.add(waiting.pop(0)[1])
        for output in engine.step():
            got.setdefault(output.request.id, []).extend(output.token_ids)
        reserved = sum(request.slot.capacity for request in engine.scheduler.running)
        assert reserved == sum(engine.target.capacities.values()) <= engine.target.max_cached_tokens
        step += 1
    assert engine.target.cache == {}
    for _, request, params, seed in arrivals:
        assert got[request.id] == request.output_token_ids  # no token is streamed twice
        assert len(request.sources) == request.num_output_tokens
        assert result(request) == alone(request, params, seed)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("period", [None, 3])
def test_every_drafter_goes_on_after_its_request_gave_way(spec, period, heads):
    room = {"kv_cache_tokens": LONGEST + ROOM + 10}
    target = toy(**room) if period is None else InexactTarget(period, sharpness=3.0, **room)
    drafter = drafter_of(spec, target, heads)
    engine = Engine(target, STRICT)
    for seed in range(2):
        serve(engine, load(target, random.Random(seed), [drafter], 12))
    assert engine.metrics.num_preemptions > 0
    assert engine.guard.failed == set()


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    room=st.integers(0, 120),
    chunk=st.sampled_from([1, 7, 512]),
    most=st.sampled_from([2, 5, 16]),
    is_exact=st.booleans(),
)
def test_any_load_in_any_cache_gives_the_texts_of_each_request_alone(seed, room, chunk, most, is_exact):
    dice = random.Random(seed)
    room = {"kv_cache_tokens": LONGEST + ROOM + room}
    target = toy(**room) if is_exact else InexactTarget(3, sharpness=3.0, **room)
    config = EngineConfig(max_num_seqs=most, max_num_batched_tokens=chunk, min_prefill_chunk=chunk, on_drafter_error="raise")
    specs = ["none", "prompt_lookup", "suffix", "recycling", "lookahead", "blanks", "prediction+suffix", "draft_model:x:branches=2"]
    drafters = [drafter_of(spec, target, {}) for spec in specs]
    serve(Engine(target, config), load(target, dice, drafters))


def test_requests_share_300_rows_that_one_filled_before():
    """Answers of 60, 200, 5, 5 and 5 tokens: all run at once, and the long one gives way only when the rows are full."""
    target = toy(kv_cache_tokens=300)
    engine = Engine(target, STRICT)
    requests = [make_request(target, [1, 2, i], SamplingParams(max_tokens=n)) for i, n in enumerate((60, 200, 5, 5, 5))]
    for request in requests:
        engine.add(request)
    engine.step()
    assert engine.scheduler.running == requests
    for _ in range(5):
        engine.step()
    assert [request.finish_reason for request in requests] == [None, None, "length", "length", "length"]
    finish(engine)
    assert engine.metrics.num_preemptions == 0


def test_a_request_that_does_not_fit_is_passed_and_never_starved():
    """Small requests arrive at every step; the large one behind the first of them runs long before they end."""
    target = toy(kv_cache_tokens=ROOM + 110)
    engine = Engine(target, STRICT)
    large = make_request(target, [1] * 100, SamplingParams(max_tokens=10))
    small = [make_request(target, [2, i % 12] * (10 if i == 0 else 1), SamplingParams(max_tokens=12)) for i in range(100)]
    engine.add(small[0])
    engine.step()
    engine.add(large)
    for request in small[1:]:
        engine.add(request)
        engine.step()
    finish(engine)
    done = sorted([large, *small], key=lambda request: request.stats.finished_at)
    assert small[1].stats.finished_at < large.stats.finished_at  # it was passed
    assert done.index(large) < 30


def test_a_tenant_cannot_starve_the_large_request_of_another():
    target = toy(kv_cache_tokens=ROOM + 110)
    engine = Engine(target, STRICT)
    large = make_request(target, [1] * 100, SamplingParams(max_tokens=10))
    others = [make_request(target, [2, i % 12] * (10 if i == 0 else 1), SamplingParams(max_tokens=12)) for i in range(100)]
    for i, request in enumerate(others):
        request.cache_salt = f"tenant {i % 4}"
    for request in [others[0], large, *others[1:]]:
        engine.add(request)
    finish(engine)
    assert 3 < sorted([large, *others], key=lambda request: request.stats.finished_at).index(large) < 40


def test_the_youngest_gives_way_and_goes_on_before_later_ones():
    target = toy(kv_cache_tokens=ROOM + 85)
    engine = Engine(target, STRICT)
    params = SamplingParams(max_tokens=80)
    old, young, late = (make_request(target, [i, 2, 3], params) for i in range(3))
    engine.add(old)
    engine.add(young)
    while not young.stats.num_preemptions:
        engine.step()
    num_written = young.num_output_tokens
    assert 0 < num_written < 80
    assert young.slot is None
    assert old.slot is not None
    engine.add(late)
    started = young.stats.decode_started_at
    finish(engine)
    assert old.stats.num_preemptions == 0
    assert old.stats.finished_at < young.stats.finished_at < late.stats.finished_at
    assert young.stats.decode_started_at == started  # the second prefill does not make it look fast
    assert engine.metrics.num_preemptions == young.stats.num_preemptions + late.stats.num_preemptions
    assert [r.output_token_ids for r in (old, young, late)] == [generate(toy(), [[i, 2, 3]], params)[0] for i in range(3)]


def test_a_request_that_waits_again_can_be_aborted():
    target = toy(kv_cache_tokens=ROOM + 85)
    engine = Engine(target, STRICT)
    requests = [make_request(target, [i, 2, 3], SamplingParams(max_tokens=80)) for i in range(2)]
    for request in requests:
        engine.add(request)
    while not requests[1].stats.num_preemptions:
        engine.step()
    engine.abort(requests[1])
    assert not list(engine.scheduler.waiting)
    finish(engine)
    assert [request.finish_reason for request in requests] == ["length", "abort"]


@pytest.mark.parametrize("num_steps", [2, 5, 12])
def test_the_log_probabilities_of_a_prompt_are_noted_once(num_steps):
    """A request that gives way while its prompt runs, or behind it, runs the prompt again."""
    prompt, params = [1, 2, 3, 4, 5, 6, 7, 8], SamplingParams(max_tokens=10, prompt_logprobs=2)
    target = toy()
    engine = Engine(target, EngineConfig(max_num_batched_tokens=3, min_prefill_chunk=1, on_drafter_error="raise"))
    request = make_request(target, prompt, params)
    engine.add(request)
    for _ in range(num_steps):
        engine.step()
    engine.preempt(request)
    while engine.has_unfinished:
        engine.step()
    assert len(request.prompt_logprobs) == len(prompt) - 1
    assert result(request) == alone(request, params, 0)


def test_a_draft_is_dropped_where_only_it_does_not_fit():
    """Drafts never take the room of a running request."""
    params = SamplingParams(max_tokens=40)
    target = toy(kv_cache_tokens=2 * 43 + 1)
    drafter = drafter_of("suffix", target, {})
    engine = Engine(target, EngineConfig(max_draft_tokens=24, on_drafter_error="raise"))
    requests = [make_request(target, [i, 2, 3], params, drafter) for i in range(2)]
    for request in requests:
        engine.add(request)
    finish(engine)
    assert engine.metrics.num_preemptions == 0
    assert [r.output_token_ids for r in requests] == [generate(toy(), [[i, 2, 3]], params)[0] for i in range(2)]


def test_what_can_never_run_is_refused_and_a_lost_cache_is_an_error():
    target = toy(kv_cache_tokens=ROOM + 50)
    engine = Engine(target)
    with pytest.raises(BadInputError, match="do not fit into 50"):
        engine.add(make_request(target, [1] * 11, SamplingParams(max_tokens=40)))
    engine.add(make_request(target, [1] * 10, SamplingParams(max_tokens=40)))
    target.max_cached_tokens = 30  # someone else took the memory
    with pytest.raises(OutOfSlots):
        finish(engine)
