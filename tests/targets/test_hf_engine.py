"""HFTarget through the engine: the text of plain decoding, whatever drafts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from helper_tools import random_eagle, random_medusa

from outpace.config import EngineConfig
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.tree.draft import Draft
from outpace.verifiers import create_verifier

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("outpace.targets.hf.target")
from hf_tools import V, model_of, plain, random_tokens

ENGINE_KINDS = ("llama", "qwen3", "gpt2")


# ---- through the engine


class OracleDrafter(Drafter):
    """Knows the plain answers and lies with probability 0.3 a token. In a tree each guess has a wrong elder brother; two probes follow."""

    def __init__(self, answers: dict[str, list[int]], is_tree: bool):
        self.answers, self.is_tree, self.rng = answers, is_tree, np.random.default_rng(12)

    def propose(self, request: Request, budget: int) -> Draft:
        known = self.answers[request.id][request.num_output_tokens :]
        guesses = [self.lie(token) if self.rng.random() < 0.3 else token for token in known]
        if not self.is_tree:
            return Draft.chain(guesses[:budget])
        tokens, parents = [], []
        for depth, guess in enumerate(guesses[: budget // 2]):
            tokens += [self.lie(guess), guess]
            parents += [2 * depth - 1] * 2
        return Draft([*tokens, 1, 2], [*parents, -1, len(tokens) - 1], num_lookahead=2)

    def lie(self, token: int) -> int:
        return (token + int(self.rng.integers(1, V))) % V


PROMPTS = [random_tokens(13, 18, 8), random_tokens(14, 41, 8), [5]]  # few words, so that lookups find some
MAX_TOKENS = 20


def params_of(temperature: float) -> SamplingParams:
    penalties = {"repetition_penalty": 1.2} if temperature else {}  # processors look at the path of each node
    return SamplingParams(temperature=temperature, max_tokens=MAX_TOKENS, seed=77, **penalties)


def sampler_of(params: SamplingParams, prompt: list[int]) -> RequestSampler:
    return RequestSampler(params, params.seed, build_processors(params, prompt, frozenset(), V))


@cache
def answers_of(kind: str, device: str, temperature: float) -> dict[str, list[int]]:
    """The reference: a loop over plain forward passes that knows nothing of the engine or the target."""
    model, answers = model_of(kind, device), {}
    for i, prompt in enumerate(PROMPTS):
        sampler, text = sampler_of(params_of(temperature), prompt), list(prompt)
        for _ in range(MAX_TOKENS):
            text.append(sampler.draw(plain(model, text)[-1], [], len(text)))
            sampler.commit(text[-1:])
        answers[str(i)] = text[len(prompt) :]
    return answers


def run(target, drafter: Drafter, temperature: float, prompts: list[list[int]]) -> list[Request]:
    """Decode prompts in one engine whose passes mix chunks of prefill with decoding."""
    params, requests = params_of(temperature), []
    engine = Engine(target, EngineConfig(max_num_batched_tokens=24, min_prefill_chunk=7))
    strategy = Strategy("test", drafter, create_verifier("exact"), FixedController(6))
    for i, prompt in enumerate(prompts):
        requests.append(Request(str(i), list(prompt), params, sampler_of(params, prompt), strategy))
        engine.add(requests[-1])
    while engine.has_unfinished:
        engine.step()
    assert [request.finish_reason for request in requests] == ["length"] * len(prompts)
    return requests


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless(kind, temperature, device):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    assert len({tuple(answer) for answer in answers.values()}) == 3
    for spec in ("none", "blind", "prompt_lookup", "prompt_lookup:branches=3"):
        for count in (1, 3):
            drafter = create_drafter(spec, DrafterContext(target))
            requests = run(target, drafter, temperature, PROMPTS[:count])
            for request in requests:
                assert request.output_token_ids == answers[request.id], (spec, count)
            assert (sum(request.stats.num_draft_tokens for request in requests) > 0) == (spec != "none")
    assert not target.kv_cache.slots


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless_with_medusa(kind, temperature, device, tmp_path):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    random_medusa(target.base, own=kind == "gpt2", reduced=30 if kind == "qwen3" else None).save_pretrained(tmp_path)
    for spec in ("medusa:{}:threshold=0.001", "prompt_lookup+medusa:{}:threshold=0.001"):
        requests = run(target, create_drafter(spec.format(tmp_path), DrafterContext(target)), temperature, PROMPTS)
        assert [request.output_token_ids for request in requests] == list(answers.values())
        assert sum(request.stats.num_draft_tokens for request in requests) > 50


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless_with_eagle(kind, temperature, device, tmp_path):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    random_eagle(target.base, reduced=30 if kind == "qwen3" else None).save_pretrained(tmp_path)
    for spec in ("eagle:{}:threshold=0.001", "prompt_lookup+eagle:{}:threshold=0.001"):
        requests = run(target, create_drafter(spec.format(tmp_path), DrafterContext(target)), temperature, PROMPTS)
        assert [request.output_token_ids for request in requests] == list(answers.values())
        assert sum(request.stats.num_draft_tokens for request in requests) > 50


@pytest.mark.parametrize("is_tree", [False, True], ids=["chain", "tree"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless_with_partial_acceptance(kind, temperature, is_tree, device):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    requests = run(target, OracleDrafter(answers, is_tree), temperature, PROMPTS)
    assert [request.output_token_ids for request in requests] == list(answers.values())
    num_drafted = sum(request.stats.num_draft_tokens for request in requests)
    num_accepted = sum(request.stats.num_accepted_tokens for request in requests)
    assert 0 < num_accepted < num_drafted / (2 if is_tree else 1)  # some guesses are right and some are wrong
