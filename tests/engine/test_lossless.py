"""The text never changes: every drafter on every kind of target, processors, schedules."""

from __future__ import annotations

import itertools
import random
from typing import ClassVar

import numpy as np
import pytest
from hooks import hook
from lossless_tools import GREEDY, MODES, PROMPTS, SAMPLED, compare, oracle, toy

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter, ready_drafters
from outpace.engine.engine import Engine
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.request import StepOutput
from outpace.sampling.noise import arrival_times
from outpace.sampling.sampler import logprobs_of
from outpace.targets.toy import ToyTarget
from outpace.testing import (
    OracleDrafter,
    SampledDrafter,
    generate,
    make_request,
    run,
)
from outpace.tree.draft import Draft


def loop(target: ToyTarget, prompt, params, seed=0) -> list[int]:
    """Decode by the definition: temperature softmax, one race of all tokens at each position."""
    text = list(prompt)
    while len(text) < len(prompt) + params.max_tokens and not (len(text) > len(prompt) and text[-1] in params.stop_token_ids):
        row = target.logits_after(text)
        if params.temperature == 0:
            text.append(int(np.argmax(row)))
            continue
        weights = np.exp((row - row.max()) * np.float32(1 / params.temperature)).astype(np.float64)
        text.append(int(np.argmax(weights / arrival_times(seed, len(text), np.arange(len(weights))))))
    return text[len(prompt) :]


@MODES
def test_plain_decoding_equals_the_loop(params):
    target = toy()
    assert generate(target, PROMPTS, params) == [loop(target, prompt, params, i) for i, prompt in enumerate(PROMPTS)]
    stopping = SamplingParams(temperature=params.temperature, max_tokens=40, stop_token_ids=(2, 9))
    assert generate(target, PROMPTS, stopping) == [loop(target, prompt, stopping, i) for i, prompt in enumerate(PROMPTS)]


def builders() -> dict:
    """name -> (target, params) -> drafter."""
    table = {name: lambda t, p, name=name: create_drafter(name, DrafterContext(t)) for name in ready_drafters()}
    for width, lie in itertools.product((1, 3), (0.0, 0.3, 1.0)):
        table[f"oracle width {width} lie {lie}"] = lambda t, p, w=width, lie=lie: oracle(t, p, lie=lie, width=w)
    for width in (1, 3):
        table[f"sampled width {width}"] = lambda t, p, w=width: SampledDrafter(DrafterContext(t), w)
    return table


BUILDERS = builders()


def built(name, target, params):
    try:
        return BUILDERS[name](target, params)
    except BadInputError as error:
        pytest.skip(f"{name} does not run on the toy target: {error}")


TARGETS = {"tree": {}, "chain": {"tree": False}, "always inexact": {"exact_trees": False}, "at times inexact": {"period": 3}}


@MODES
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", BUILDERS)
def test_the_text_never_changes(name, kind, params):
    target = toy(**TARGETS[kind])
    drafter = built(name, target, params)
    for batch in (PROMPTS[:1], PROMPTS):
        plain = generate(target, batch, params)
        for count in (1, 4, 9):
            assert generate(target, batch, params, drafter, "exact", count) == plain
    if params is GREEDY and "inexact" not in kind:
        assert generate(target, PROMPTS, params, drafter, "typical", 7) == plain


def test_chains_are_what_is_left_of_trees_where_the_target_has_none():
    target = toy(tree=False)
    requests = [make_request(target, p, GREEDY, oracle(target, GREEDY, lie=0, width=2), seed=i) for i, p in enumerate(PROMPTS)]
    assert [r.output_token_ids for r in run(target, requests)] == generate(target, PROMPTS, GREEDY)
    assert sum(r.stats.num_accepted_tokens for r in requests) > 0


def test_probes_never_reach_the_text():
    class Probing(OracleDrafter):
        sizes: ClassVar[list] = []

        def propose(self, request, budget):
            draft = super().propose(request, budget)
            n = len(draft)
            return Draft([*draft.token_ids, *draft.token_ids[:2], 3], [*draft.parents, -1, n, -1], num_lookahead=3)

        def observe(self, request, verdict, output):
            self.sizes.append((len(output.logits), len(output.hidden), len(output.token_ids), 1 + len(verdict.draft)))

    for params, target in ((GREEDY, toy()), (SAMPLED, toy()), (SAMPLED, toy(3))):
        honest = oracle(target, params)
        drafter = Probing(DrafterContext(target), honest.answers, 0.3)
        assert generate(target, PROMPTS, params, drafter) == generate(target, PROMPTS, params)
    assert len(Probing.sizes) > 40
    assert all(len(set(sizes)) == 1 for sizes in Probing.sizes)


LOADED = {
    "repetition_penalty": 1.3,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
    "logit_bias": {1: 1.5, 2: -100.0},
    "min_tokens": 12,
    "stop_token_ids": (3, 7),
    "logits_processors": (hook,),
    "max_tokens": 40,
}


@pytest.mark.parametrize("warp", [{}, {"temperature": 0.9}, {"temperature": 1.3, "top_k": 5, "top_p": 0.9, "min_p": 0.02}], ids=str)
@pytest.mark.parametrize("width", [1, 3])
def test_all_processors_together(warp, width):
    for seed in range(4):
        target, params = toy(3 if seed % 2 else None, sharpness=1.5), SamplingParams(**LOADED, **warp)
        drafter = oracle(target, params, lie=0.2, width=width, seed=seed)
        plain = generate(target, PROMPTS, params)
        assert generate(target, PROMPTS, params, drafter, "exact", 8) == plain
        assert generate(target, PROMPTS, params, create_drafter("prompt_lookup", DrafterContext(target)), "exact", 8) == plain
        for tokens in plain:
            assert 2 not in tokens
            assert not {3, 7} & set(tokens[:12])


@MODES
@pytest.mark.parametrize("num_top", [0, 3, 50])
def test_logprobs_equal_plain(params, num_top):
    params = SamplingParams(**{**vars(params), "logprobs": num_top, "frequency_penalty": 0.5})
    for lie, width, period in ((0.0, 1, None), (0.3, 1, None), (0.3, 3, None), (0.3, 3, 3)):
        target = toy()
        for request in compare(params, lie=lie, width=width, period=period):
            for i, logprobs in enumerate(request.logprobs):
                row = target.logits_after(request.token_ids[: request.num_prompt_tokens + i])
                assert logprobs == logprobs_of(row, request.output_token_ids[i], num_top)


@pytest.mark.parametrize("seed", range(6))
def test_requests_join_leave_and_are_aborted_at_random(seed):
    dice = random.Random(seed)
    target = toy(3 if seed % 2 else None, max_slots=4)
    prompts = [[dice.randrange(12) for _ in range(dice.choice([1, 2, 5, 30]))] for _ in range(14)]
    params = [SamplingParams(temperature=dice.choice([0, 0.8]), max_tokens=dice.randrange(1, 30), stop_token_ids=(9,)) for _ in prompts]
    plain = [generate(target, [prompt], p)[0] for prompt, p in zip(prompts, params, strict=True)]
    answers = {tuple(prompt): tokens for prompt, tokens in zip(prompts, plain, strict=True)}
    context = DrafterContext(target)
    drafters = [
        OracleDrafter(context, answers, 0.3),
        OracleDrafter(context, answers, 0.3, 3),
        SampledDrafter(context, 2),
        create_drafter("prompt_lookup", context),
        create_drafter("lookahead", context),
        create_drafter("blanks:after=every", context),
        create_drafter("blind:tokens=frequent", context),
        create_drafter("none", context),
    ]
    config = EngineConfig(max_num_seqs=3, max_num_batched_tokens=dice.choice([1, 20, 512]), min_prefill_chunk=dice.randrange(1, 18))
    engine = Engine(target, config)
    requests = [make_request(target, prompt, p, dice.choice(drafters), "exact", 7) for prompt, p in zip(prompts, params, strict=True)]
    waiting, got = list(requests), {request.id: [] for request in requests}
    aborted = set()
    while waiting or engine.has_unfinished:
        for _ in range(min(len(waiting), dice.choice([0, 0, 1, 3]))):
            engine.add(waiting.pop())
        if dice.random() < 0.1 and (alive := [r for r in requests if r not in waiting and r.finish_reason is None]):
            victim = dice.choice(alive)
            engine.abort(victim)
            aborted.add(victim.id)
        for output in engine.step():
            assert isinstance(output, StepOutput)
            got[output.request.id] += output.token_ids
    assert target.cache == {}
    for request, want in zip(requests, plain, strict=True):
        assert got[request.id] == request.output_token_ids  # what was streamed is what is in the text
        if request.id in aborted:
            assert request.finish_reason == "abort"
            assert request.output_token_ids == want[: request.num_output_tokens]
        else:
            assert request.output_token_ids == want
    assert len(aborted) < len(requests)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8, 13, 16, 17])
def test_chunked_prefill_changes_nothing(chunk):
    target = toy()
    prompts = [[(i * 7 + j) % 12 for j in range(n)] for i, n in enumerate((17, 1, 34, 2, 16))]
    plain = generate(target, prompts, SAMPLED)
    drafter = oracle(target, SAMPLED, prompts, width=2)
    for config in (
        EngineConfig(max_num_batched_tokens=chunk, min_prefill_chunk=chunk),
        EngineConfig(max_num_batched_tokens=chunk, min_prefill_chunk=1, max_num_seqs=2),
        EngineConfig(max_num_batched_tokens=64, min_prefill_chunk=chunk, enable_prefix_caching=False),
    ):
        assert generate(target, prompts, SAMPLED, drafter, "exact", 6, config=config) == plain
