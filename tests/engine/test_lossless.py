"""The promise: with any drafter, tree, batch, stop, penalty and schedule, every token equals plain decoding; and this can fail."""

import itertools
import random
from typing import ClassVar

import numpy as np
import pytest

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter, ready_drafters
from outpace.engine.engine import Engine
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.request import StepOutput
from outpace.sampling.processors import Hook, Penalties
from outpace.sampling.sampler import RequestSampler, logprobs_of, uniform
from outpace.targets.toy import ToyTarget
from outpace.testing import (
    AcceptEverythingVerifier,
    InexactTarget,
    OracleDrafter,
    SampledDrafter,
    check_target,
    generate,
    make_request,
    run,
)
from outpace.tree.draft import Draft
from outpace.tree.segment import Slot

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4], [5, 6, 5, 6, 5, 6, 7, 8, 5, 6]]
GREEDY = SamplingParams(max_tokens=40)
SAMPLED = SamplingParams(temperature=0.8, max_tokens=40)
MODES = pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def toy(period=None, **options) -> ToyTarget:
    """Sharp enough that lookup drafts are partly right. With a period: trees are not exact."""
    return ToyTarget(**{"sharpness": 3.0, **options}) if period is None else InexactTarget(period, **{"sharpness": 3.0, **options})


def oracle(target, params, prompts=PROMPTS, lie=0.3, width=1, seed=0) -> OracleDrafter:
    """Knows what plain decoding gives without any stop; prompt i of the list has seed i."""
    endless = SamplingParams(**{**vars(params), "stop_token_ids": (), "min_tokens": 0, "max_tokens": 80})
    answers = {tuple(p): generate(target, [p], endless, seed=i)[0] for i, p in enumerate(prompts)}
    return OracleDrafter(DrafterContext(target), answers, lie, width, seed)


def everything(request) -> tuple:
    return request.output_token_ids, request.finish_reason, request.logprobs


# ---- plain decoding itself, against a loop that has no engine, no cache and no batch


def loop(target: ToyTarget, prompt, params, seed=0) -> list[int]:
    """Decode by the definition: temperature softmax, one uniform number a position, inverse CDF."""
    text = list(prompt)
    while len(text) < len(prompt) + params.max_tokens and not (len(text) > len(prompt) and text[-1] in params.stop_token_ids):
        row = target.logits_after(text)
        if params.temperature == 0:
            text.append(int(np.argmax(row)))
            continue
        weights = np.exp((row - row.max()) * np.float32(1 / params.temperature)).astype(np.float64)
        text.append(int(np.searchsorted(np.cumsum(weights), uniform(seed, len(text)) * weights.sum(), side="right")))
    return text[len(prompt) :]


@MODES
def test_plain_decoding_equals_the_loop(params):
    target = toy()
    assert generate(target, PROMPTS, params) == [loop(target, prompt, params, i) for i, prompt in enumerate(PROMPTS)]
    stopping = SamplingParams(temperature=params.temperature, max_tokens=40, stop_token_ids=(2, 9))
    assert generate(target, PROMPTS, stopping) == [loop(target, prompt, stopping, i) for i, prompt in enumerate(PROMPTS)]


# ---- the matrix


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
        for verifier in ("rejection", "typical"):
            assert generate(target, PROMPTS, params, drafter, verifier, 7) == plain


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


# ---- the end of the text at every offset of an accepted block (blocks of 8 tokens: 7 guesses and the bonus token)

OFFSETS = range(18)


def compare(params, make_stop=lambda: None, lie=0.0, width=1, period=None):
    """(tokens, finish reason) of all prompts, plain and with the oracle; must be equal."""
    target = toy(period)
    drafter = oracle(target, params, lie=lie, width=width)
    plain = [make_request(target, p, params, seed=i, stop_check=make_stop()) for i, p in enumerate(PROMPTS)]
    fast = [make_request(target, p, params, drafter, "exact", 7 * width, i, make_stop()) for i, p in enumerate(PROMPTS)]
    assert [everything(r) for r in run(target, fast)] == [everything(r) for r in run(target, plain)]
    for request in fast:
        assert len(request.from_draft) == request.num_output_tokens
        if target.capabilities.exact_trees:  # else a guess may hold one step before it gains a token
            assert sum(request.from_draft) == request.stats.num_accepted_tokens
    return fast


@MODES
@pytest.mark.parametrize(("width", "period"), [(1, None), (2, None), (2, 3)])
def test_max_tokens_at_every_offset(params, width, period):
    for offset in OFFSETS:
        for request in compare(SamplingParams(**{**vars(params), "max_tokens": offset + 1}), width=width, period=period):
            assert request.num_output_tokens == offset + 1
            assert request.finish_reason == "length"
            if width == 1:
                assert request.stats.num_steps == -(-(offset + 1) // 8)  # full blocks were accepted


@MODES
@pytest.mark.parametrize("min_tokens", [0, 6])
def test_end_tokens_at_every_offset(params, min_tokens):
    """Every token of the plain text in turn is the end of sequence; min_tokens forbids it at first, position by position."""
    reasons = set()
    for offset in OFFSETS:
        end = generate(toy(), PROMPTS[:1], params)[0][offset]
        stopping = SamplingParams(**{**vars(params), "stop_token_ids": (end, 11), "min_tokens": min_tokens})
        for request in compare(stopping, lie=0.1 * (offset % 3), width=1 + offset % 2, period=3 if offset % 4 == 1 else None):
            reasons.add(request.finish_reason)
            assert request.num_output_tokens >= min_tokens
            assert request.finish_reason != "stop" or request.token_ids[-1] in (end, 11)
            assert not {end, 11} & set(request.output_token_ids[:-1])
    assert "stop" in reasons


@MODES
@pytest.mark.parametrize(("width", "period"), [(1, None), (2, 3)])
def test_stop_strings_at_every_offset(params, width, period):
    for offset in OFFSETS:
        told = []

        def make_stop(offset=offset, told=told):
            told.append([])
            mine = told[-1]
            return lambda token: mine.append(token) or len(mine) > offset

        for request in compare(params, make_stop, width=width, period=period):
            assert (request.num_output_tokens, request.finish_reason) == (offset + 1, "stop")
        assert told[:3] == told[3:]  # every committed token is told once, in order, and none after the stop
        assert all(len(tokens) == offset + 1 for tokens in told)


def stop_after(num_tokens):
    """A stop check that holds at the last of so many tokens."""
    left = itertools.count(1)
    return lambda token: next(left) == num_tokens


PROBING = ["lookahead", "lookahead:window=5:ngram=4", "blanks", "blanks:after=every:branches=2", "lookahead+blanks:after=end"]


@MODES
@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize("spec", PROBING)
def test_probes_and_every_end_at_every_offset(spec, period, params):
    """Length, end token and stop string at each place of the text, with probes in the pass until the last one."""
    target = toy(period)
    drafter = create_drafter(spec, DrafterContext(target))
    longest = generate(target, PROMPTS[:1], params)[0]
    for offset in OFFSETS:
        ends = [
            ({"max_tokens": offset + 1}, lambda: None),
            ({"stop_token_ids": (longest[offset], 11)}, lambda: None),
            ({}, lambda offset=offset: stop_after(offset + 1)),
        ]
        for change, make_stop in ends:
            ended = SamplingParams(**{**vars(params), **change})
            plain = [make_request(target, p, ended, seed=i, stop_check=make_stop()) for i, p in enumerate(PROMPTS)]
            fast = [make_request(target, p, ended, drafter, seed=i, stop_check=make_stop()) for i, p in enumerate(PROMPTS)]
            assert [everything(r) for r in run(target, fast)] == [everything(r) for r in run(target, plain)]
            assert any(r.num_output_tokens <= offset + 1 for r in fast)


def test_a_stop_string_waits_for_min_tokens():
    params = SamplingParams(max_tokens=20, min_tokens=9)
    for request in compare(params, lambda: lambda token: True):
        assert (request.num_output_tokens, request.finish_reason) == (9, "stop")


# ---- processors and log-probabilities


def hook(token_ids, logits):
    """Depends on the whole text: forbids the token seen 5 places before, prefers one named by a hash."""
    out = logits.copy()
    if len(token_ids) > 4:
        out[token_ids[-5]] = -np.inf
    out[sum((i + 1) * t for i, t in enumerate(token_ids)) % len(out)] += 1.5
    return out


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


# ---- schedules: others come and go, prompts arrive in pieces


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


# ---- targets


def test_the_toy_target_keeps_the_rules():
    check_target(toy(), PROMPTS[2])
    check_target(toy(tree=False), PROMPTS[0])
    check_target(toy(exact_trees=False), PROMPTS[0], tree_tolerance=100)
    with pytest.raises(AssertionError, match="row of node 2 against its path"):  # displaced rows are looked at, too
        check_target(toy(exact_trees=False), PROMPTS[0])


class ForgetsToMove(ToyTarget):
    """keep() leaves the first rows where they are instead of the accepted ones."""

    def accept(self, slot, token_ids, nodes):
        super().accept(slot, token_ids, range(len(nodes)))


class KeepsAll(ToyTarget):
    """keep() lets rejected rows live on."""

    def accept(self, slot, token_ids, nodes):
        before = self.cache[slot.index][slot.num_cached :]
        super().accept(slot, token_ids, nodes)
        self.cache[slot.index] += before[len(nodes) :]

    def forward(self, batch, width=0):
        for segment in batch:
            segment.slot.token_ids += [0] * (len(self.cache[segment.slot.index]) - segment.slot.num_cached)
        return super().forward(batch, width)


class SeesSiblings(ToyTarget):
    """The mask shows rows of other branches: the last row's token counts for all."""

    def logits_after(self, context):
        return super().logits_after(context) + self.leak

    leak = np.float32(0)

    def forward(self, batch, width=0):
        self.leak = self.table[0, 0] * np.float32(0.3 * (max(len(segment) for segment in batch) > 3))
        return super().forward(batch, width)


class SharesSlots(ToyTarget):
    """A freed slot comes back with the rows of its last owner."""

    old: tuple = ()

    def allocate(self, num_tokens, prompt_token_ids=()):
        slot = super().allocate(num_tokens, prompt_token_ids)
        self.cache[slot.index] = list(self.old)
        return Slot(slot.index, slot.capacity, [token for token, _ in self.old][: max(0, len(prompt_token_ids) - 1)], [])

    def free(self, slot):
        self.old = tuple(self.cache[slot.index][: slot.num_cached])
        super().free(slot)


@pytest.mark.parametrize("broken", [ForgetsToMove, KeepsAll, SeesSiblings, SharesSlots])
def test_check_target_catches(broken):
    with pytest.raises((AssertionError, BadInputError)):
        check_target(broken(sharpness=3.0), PROMPTS[2])


def test_check_target_has_a_tolerance():
    class Noisy(ToyTarget):
        def forward(self, batch, width=0):
            output = super().forward(batch, width)
            output.logits[:] += np.float32(1e-4 * (self.num_passes % 2))
            return output

    check_target(Noisy(), PROMPTS[0], tolerance=2e-4)
    with pytest.raises(AssertionError, match=r"logits differ by 0\.0001"):
        check_target(Noisy(), PROMPTS[0])


# ---- negative controls: one broken piece at a time, caught by the very comparison that everything above rests on


def differs(target, params=SAMPLED, change=None, verifier="exact", config=None, **options) -> bool:
    """Does anything differ from plain decoding with working pieces? A crash counts."""
    plain = generate(toy(), PROMPTS, params)
    drafter = oracle(toy(), params, lie=0.2, **options)
    requests = [make_request(target, p, params, drafter, verifier, 8, i) for i, p in enumerate(PROMPTS)]
    for request in requests:
        if change:
            change(request)
    try:
        return [r.output_token_ids for r in run(target, requests, config)] != plain
    except (AssertionError, BadInputError, IndexError):
        return True


class CountingSampler(RequestSampler):
    """The noise counts draws instead of positions, as a stateful random generator does."""

    count = 0

    def draw(self, row, path, position):
        self.count += 1
        return super().draw(row, path, self.count)


class PathlessPenalties(Penalties):
    def apply(self, row, path):
        super().apply(row, [])


class PathlessHook(Hook):
    def apply(self, row, path):
        super().apply(row, [])


def counting(request):
    request.sampler = CountingSampler(request.sampling_params, request.sampler.seed)


def pathless(request):
    for processor in request.sampler.processors:
        processor.__class__ = {Penalties: PathlessPenalties, Hook: PathlessHook}[type(processor)]


PENALISED = SamplingParams(max_tokens=40, frequency_penalty=1.0)
HOOKED = SamplingParams(max_tokens=40, logits_processors=(hook,))


@pytest.mark.parametrize(
    "control",
    [
        lambda: differs(toy(), verifier=AcceptEverythingVerifier()),
        lambda: differs(toy(), GREEDY, verifier=AcceptEverythingVerifier()),
        lambda: differs(ForgetsToMove(sharpness=3.0), width=3),
        lambda: differs(KeepsAll(sharpness=3.0)),
        lambda: differs(SharesSlots(sharpness=3.0), config=EngineConfig(max_num_seqs=1)),
        lambda: differs(SeesSiblings(sharpness=3.0)),
        lambda: differs(toy(), change=counting),
        lambda: differs(toy(), PENALISED, change=pathless),
        lambda: differs(toy(), HOOKED, change=pathless),
        lambda: differs(toy(), verifier="typical"),
        lambda: differs(toy(), verifier="rejection"),
    ],
)
def test_broken_pieces_are_caught(control):
    assert control()


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("period", [1, 2, 3])
def test_trusting_inexact_trees_is_caught(params, period, monkeypatch):
    assert not differs(toy(period), params, width=2)
    monkeypatch.setattr(Engine, "_split", lambda self, request, verdict: (verdict, []))
    assert differs(toy(period), params, width=2)


def test_pending_tokens_save_passes_where_they_are_right():
    """What inexact trees predict is nearly always right: then it costs rows, and no more than one pass in all."""
    steps = []
    for target in (toy(), toy(10**9)):
        request = make_request(target, PROMPTS[0], GREEDY, oracle(target, GREEDY, lie=0, width=2), num_draft_tokens=8)
        run(target, [request])
        steps.append(request.stats.num_steps)
    assert steps[0] <= steps[1] <= steps[0] + 2


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED, HOOKED], ids=["greedy", "sampled", "penalised", "hooked"])
def test_nothing_is_caught_when_nothing_is_broken(params):
    assert not differs(toy(), params)
    assert not differs(toy(), params, width=3)
    assert not differs(toy(), params, config=EngineConfig(max_num_seqs=1))
