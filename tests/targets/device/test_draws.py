"""Draws on the device are those of the host, bit for bit, or left to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.config import EngineConfig
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.engine.engine import Engine
from outpace.errors import OutpaceError
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling import noise
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.tree.segment import Drawing, Segment
from outpace.verifiers import create_verifier

torch = pytest.importorskip("torch")
from hf_tools import DEVICES, model_of
from test_hf_engine import PROMPTS

hf = pytest.importorskip("outpace.targets.hf.target")

from outpace.targets.hf import draws, lazy_rows
from outpace.targets.hf.draws import UNDECIDED, DrawArrays, draw


def on_device(logits, params, seed, positions, device="cpu"):
    """The draws of rows [n, V], the row i at positions[i] + 1."""
    arrays = DrawArrays.of([Drawing(params, seed)], np.array([positions]))
    whole, real = (torch.from_numpy(each[:, 0]).to(device) for each in (arrays.whole, arrays.real))
    return draw(torch.from_numpy(logits).to(device), whole, real, arrays.kinds).cpu().numpy()


def on_host(logits, params, seed, positions):
    sampler = RequestSampler(params, seed)
    return np.array([sampler.draw(row.copy(), [], position + 1) for row, position in zip(logits, positions, strict=True)])


SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.3),
    SamplingParams(temperature=1.7),
    SamplingParams(temperature=0.8, top_k=20),
    SamplingParams(temperature=0.8, top_p=0.9),
    SamplingParams(temperature=1.0, min_p=0.05),
    SamplingParams(temperature=1.2, top_k=40, top_p=0.95, min_p=0.01),
    SamplingParams(temperature=0.7, top_k=1),
    SamplingParams(temperature=0.3, top_k=300, top_p=0.9),  # more than MAX_CUT: left where the list is longer
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("params", SETTINGS, ids=lambda params: f"{params.temperature}-{params.top_k}-{params.top_p}-{params.min_p}")
def test_many_draws(params, device):
    """3,000 rows of a spread like those of models; few are left to the host."""
    rng = np.random.default_rng(int(100 * params.temperature) + params.top_k)
    left = 0
    for size, spread in ((700, 2.0), (3000, 3.0), (50, 1.0)):
        logits = rng.normal(0, spread, (1000, size)).astype(np.float32)
        positions = rng.integers(0, 10_000, 1000)
        seed = int(rng.integers(0, 1 << 60))
        found = on_device(logits, params, seed, positions, device)
        certain = found != UNDECIDED
        np.testing.assert_array_equal(found[certain], on_host(logits, params, seed, positions)[certain])
        left += int((~certain).sum())
    assert left <= 120 or params.top_k > draws.MAX_CUT


@pytest.mark.parametrize("device", DEVICES)
def test_the_bits_are_those_of_the_noise(device):
    tokens = np.arange(5000, dtype=np.int64)
    for seed, position in ((0, 1), (12345, 77), ((1 << 63) + 5, 1 << 30)):
        whole = torch.tensor([[0], *([half] for half in noise.key_of(seed, position)), [0]], device=device)
        bits = draws._bits(torch.from_numpy(tokens).to(device, torch.int32), whole)
        times = draws._times(bits).cpu().numpy()[0]
        expected = noise.arrival_times(seed, position, tokens)
        np.testing.assert_allclose(times, expected, rtol=1e-14)
        scratch, own = np.empty(5000, np.uint32), np.empty(5000, np.uint32)
        noise._hash(tokens.astype(np.uint32), seed, position, own, scratch)
        np.testing.assert_array_equal(draws._unsigned(bits).cpu().numpy()[0], own)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_of_any_shape(data):
    """Ties, few tokens, extreme values: right or left to the host."""
    size = data.draw(st.integers(1, 40))
    values = st.sampled_from([0.0, 1.0, 1.0 + 2**-23, -1.0, 30.0, -30.0, -np.inf, 5.5])
    rows = np.array(data.draw(st.lists(st.lists(values, min_size=size, max_size=size), min_size=1, max_size=5)), np.float32)
    rows[:, data.draw(st.integers(0, size - 1))] = 2.0  # something can be chosen
    params = data.draw(st.sampled_from(SETTINGS))
    positions = np.arange(len(rows)) + data.draw(st.integers(0, 1000))
    found, expected = on_device(rows, params, 3, positions), on_host(rows, params, 3, positions)
    assert ((found == expected) | (found == UNDECIDED)).all()


def test_what_the_last_bits_decide_is_left():
    """Two tokens that arrive together, equal logits at an edge, a nucleus that ends at its goal, a flat nucleus, NaN and infinity."""
    seed, position = 9, 50
    first, second = noise.arrival_times(seed, position + 1, np.arange(2))
    close = np.array([[0.0, np.log(second / first)]], np.float32)
    assert on_device(close, SamplingParams(temperature=1.0), seed, [position]) == [UNDECIDED]
    apart = close + np.array([[0.0, 0.01]], np.float32)
    assert on_device(apart, SamplingParams(temperature=1.0), seed, [position]) == on_host(
        apart, SamplingParams(temperature=1.0), seed, [position]
    )
    tied = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
    assert on_device(tied, SamplingParams(temperature=1.0, top_k=2), seed, [position]) == [UNDECIDED]
    even = np.zeros((1, 4), np.float32)
    assert on_device(even, SamplingParams(temperature=1.0, top_p=0.5), seed, [position]) == [UNDECIDED]
    flat = np.random.default_rng(0).normal(0, 0.01, (1, 5000)).astype(np.float32)
    assert on_device(flat, SamplingParams(temperature=1.0, top_p=0.9), seed, [position]) == [UNDECIDED]
    for bad in (np.nan, np.inf):
        rows = np.array([[0.0, bad, 1.0]], np.float32)
        for params in SETTINGS[:2]:
            assert on_device(rows, params, seed, [position]) == [UNDECIDED]
    nothing = np.full((1, 3), -np.inf, np.float32)
    assert on_device(nothing, SamplingParams(temperature=1.0), seed, [position]) == [UNDECIDED]
    with pytest.raises(OutpaceError):
        on_host(nothing, SamplingParams(temperature=1.0), seed, [position])


def test_rows_of_one_batch_draw_in_their_own_ways():
    rng = np.random.default_rng(4)
    logits, positions = rng.normal(0, 2, (5, 3, 300)).astype(np.float32), rng.integers(0, 99, (5, 3))
    drawings = [Drawing(SETTINGS[i], 10 + i) if i else None for i in (3, 0, 4, 5, 7)]
    drawings[2] = Drawing(SamplingParams(), 1)
    arrays = DrawArrays.of(drawings, positions)
    assert arrays.kinds == (True, True)
    whole, real = (torch.from_numpy(each).flatten(1) for each in (arrays.whole, arrays.real))
    found = draw(torch.from_numpy(logits).flatten(0, 1), whole, real, arrays.kinds).numpy().reshape(5, 3)
    for row, drawing, rows, places in zip(found, drawings, logits, positions, strict=True):
        if drawing is None:
            assert (row == UNDECIDED).all()
        else:
            np.testing.assert_array_equal(row, on_host(rows, drawing.params, drawing.seed, places))


# ---- through the engine


def decoded(target, spec, params, logprobs=False):
    """The requests of all prompts, decoded together."""
    strategy = Strategy("test", create_drafter(spec, DrafterContext(target)), create_verifier("exact"), FixedController(5))
    engine, requests = Engine(target, EngineConfig(max_num_batched_tokens=24, min_prefill_chunk=7)), []
    for i, prompt in enumerate(PROMPTS):
        sampler = RequestSampler(params, 7 + i, build_processors(params, prompt, frozenset(), 128))
        requests.append(Request(str(i), list(prompt), params, sampler, strategy, logprobs=[] if logprobs else None))
        engine.add(requests[-1])
    while engine.has_unfinished:
        engine.step()
    assert all(request.error is None for request in requests)
    return requests


ENGINE_SETTINGS = [
    SamplingParams(max_tokens=30),
    SamplingParams(temperature=0.9, max_tokens=30),
    SamplingParams(temperature=0.8, top_p=0.9, top_k=30, max_tokens=30),
    SamplingParams(temperature=0.8, repetition_penalty=1.2, max_tokens=30),  # drawn on the host
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("params", ENGINE_SETTINGS, ids=["greedy", "race", "cut", "penalty"])
def test_texts_are_those_of_draws_on_the_host(params, device, monkeypatch):
    host, target = (hf.HFTarget(model_of("llama", device), static=static) for static in (False, True))
    assert (host.capabilities.draws, target.capabilities.draws) == (False, True)
    copies = []
    whole = lazy_rows.Source.array.fget
    monkeypatch.setattr(lazy_rows.Source, "array", property(lambda self: copies.append(1) or whole(self)))
    expected = [request.output_token_ids for request in decoded(host, "none", params)]
    for spec in ("none", "prompt_lookup:branches=3"):
        assert [request.output_token_ids for request in decoded(target, spec, params)] == expected, spec
    assert not copies  # logits stay on the device, but for single rows
    waits, on_host, forward = [0, 0], target._on_host, target.forward
    monkeypatch.setattr(target, "_on_host", lambda tensors: waits.__setitem__(0, waits[0] + 1) or on_host(tensors))
    monkeypatch.setattr(target, "forward", lambda *arguments: waits.__setitem__(1, waits[1] + 1) or forward(*arguments))
    decoded(target, "prompt_lookup", params)
    assert waits[0] == waits[1] > 0  # the device is waited for once in a step
    assert [request.output_token_ids for request in decoded(target, "recycling", params)] == expected
    assert bool(copies) == (params.repetition_penalty == 1.0)  # this drafter reads them; without draws they are on the host anyway


def test_log_probabilities_are_those_of_the_host():
    host, target = (hf.HFTarget(model_of("llama"), static=static) for static in (False, True))
    params = SamplingParams(temperature=0.9, max_tokens=12, logprobs=2)
    for one, other in zip(decoded(host, "none", params, True), decoded(target, "none", params, True), strict=True):
        assert one.output_token_ids == other.output_token_ids
        for row, same in zip(one.logprobs, other.logprobs, strict=True):
            assert list(row) == list(same)
            np.testing.assert_allclose(list(row.values()), list(same.values()), atol=1e-4)


def test_several_passes_keep_their_draws():
    """A long prompt beside two that decode: two shapes in one step."""
    target = hf.HFTarget(model_of("llama"), static=True)
    slots = [target.allocate(300) for _ in range(3)]
    greedy, prompt = Drawing(SamplingParams(), 0), [i % 128 for i in range(200)]
    batch = [Segment(slots[0], prompt, wants_output=False), Segment(slots[1], [3, 4], drawing=greedy), Segment(slots[2], [5])]
    output = target.forward(batch)
    assert output.draws.tolist() == [*np.argmax(np.asarray(output.logits)[:2], 1), UNDECIDED]
    assert len(output.logits) == 3
    np.testing.assert_array_equal(output.logits[1:][0], np.asarray(output.logits)[1])
    np.testing.assert_array_equal(output.logits[[0, 2]], np.asarray(output.logits)[[0, 2]])
