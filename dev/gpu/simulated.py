"""A simulation: larger shapes with random weights write the text of their own plain decoding, and a drafter that knows this text lets a
given share of its tokens be right. Passes are real, acceptance is not."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gpu.machine import synchronize
from gpu.setting import Setting

from outpace.config import EngineConfig
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling.sampler import RequestSampler
from outpace.targets.hf.target import HFTarget
from outpace.tree.draft import EMPTY_DRAFT, Draft
from outpace.verifiers import create_verifier

SHARES, COUNTS = (0.6, 0.8), (3, 7)  # of draft tokens that are right, and draft tokens per step


class ReplayDrafter(Drafter):
    """Knows each answer, and gets a token of it wrong with probability 1 - share."""

    def __init__(self, answers: dict[str, list[int]], share: float, vocab_size: int):
        self.answers, self.share, self.vocab_size, self.rng = answers, share, vocab_size, np.random.default_rng(0)

    def propose(self, request: Request, budget: int) -> Draft:
        known = self.answers.get(request.id, [])[request.num_output_tokens :][:budget]
        wrong = self.rng.random(len(known)) >= self.share
        tokens = [(token + 1) % self.vocab_size if is_wrong else token for token, is_wrong in zip(known, wrong, strict=True)]
        return Draft.chain(tokens) if tokens else EMPTY_DRAFT


def replay(setting: Setting, name: str, model: Any) -> dict[str, Any]:
    """Tokens per second, plain and by share and number of draft tokens, for one sequence and for 8."""
    target, num_tokens = HFTarget(model, kv_cache_tokens=32768, static=True), 12 if setting.is_cpu else 128
    rows = []
    for at_once in (1, 8):
        plain = _decode(setting, target, None, 0, at_once, num_tokens)
        answers = plain.pop("answers")
        rows.append({"at_once": at_once, "share": None, "draft_tokens": 0, **plain})
        for share in SHARES:
            for count in COUNTS:
                drafter = ReplayDrafter(answers, share, target.capabilities.vocab_size)
                found = _decode(setting, target, drafter, count, at_once, num_tokens)
                written = found.pop("answers")
                identical = sum(written[key] == answer for key, answer in answers.items())
                rows.append({"at_once": at_once, "share": share, "draft_tokens": count, "identical": identical, **found})
    target.drop_buffers()
    return {"model": name, "is_simulation": True, "max_tokens": num_tokens, "rows": rows}


def _decode(setting: Setting, target: HFTarget, drafter: Drafter | None, count: int, at_once: int, num_tokens: int) -> dict[str, Any]:
    for _ in range(2):  # the first time captures graphs
        requests = _requests(target, drafter or ReplayDrafter({}, 1.0, 2), count, at_once, num_tokens)
        engine = Engine(target, EngineConfig(enable_prefix_caching=False))
        for request in requests:
            engine.add(request)
        while any(request.num_output_tokens == 0 for request in requests):
            engine.step()
        synchronize(setting.device)
        started, before = time.perf_counter(), sum(request.num_output_tokens for request in requests)
        while engine.has_unfinished:
            engine.step()
        synchronize(setting.device)
        seconds = time.perf_counter() - started
    num_steps = sum(request.stats.num_steps for request in requests)
    return {
        "tokens_per_second": round((at_once * num_tokens - before) / seconds, 1),
        "tokens_per_step": round(at_once * num_tokens / num_steps, 3),
        "answers": {request.id: request.output_token_ids for request in requests},
    }


def _requests(target: HFTarget, drafter: Drafter, count: int, at_once: int, num_tokens: int) -> list[Request]:
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    strategy = Strategy("replay", drafter, create_verifier("exact"), FixedController(count))
    prompts = np.random.default_rng(1).integers(2, target.capabilities.vocab_size, (at_once, 128 if target.is_static else 16))
    return [Request(str(i), prompt.tolist(), params, RequestSampler(params, i), strategy) for i, prompt in enumerate(prompts)]
