"""Run a few requests through a real engine in a test, without text or model files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from outpace.config import EngineConfig
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.none import NoDrafter
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.targets.base import TargetModel
from outpace.verifiers import create_verifier
from outpace.verifiers.base import Verifier

Prompt = Sequence[int]
Build = Callable[[DrafterContext], Drafter]
_ids = itertools.count()


def make_request(
    target: TargetModel,
    prompt_token_ids: Prompt,
    params: SamplingParams | None = None,
    drafter: Drafter | None = None,
    verifier: Verifier | str = "exact",
    num_draft_tokens: int | None = None,
    seed: int | None = None,
    stop_check: Callable[[int], bool] | None = None,
) -> Request:
    """A request as `LLM` would build it; without a drafter it decodes plainly. `seed` None takes the one in `params`, else 0."""
    params, drafter = params or SamplingParams(), drafter or NoDrafter(DrafterContext(target))
    ends, prompt = frozenset(params.stop_token_ids), list(prompt_token_ids)
    processors = build_processors(params, prompt, ends, target.capabilities.vocab_size)
    sampler = RequestSampler(params, (params.seed or 0) if seed is None else seed, processors)
    count = drafter.num_draft_tokens if num_draft_tokens is None else num_draft_tokens
    judge = create_verifier(verifier) if isinstance(verifier, str) else verifier
    strategy = Strategy(type(drafter).__name__, drafter, judge, FixedController(count))
    return Request(f"test-{next(_ids)}", prompt, params, sampler, strategy, ends, stop_check)


def run(target: TargetModel, requests: Sequence[Request], config: EngineConfig | None = None) -> Sequence[Request]:
    """Decode all requests to the end in one engine. Raises AssertionError when one of them fails, and what a drafter raises."""
    drive(target, requests, config)
    for request in requests:
        if request.error is not None:
            raise AssertionError(f"request {request.id} failed: {request.error!r}") from request.error
    return requests


def drive(target: TargetModel, requests: Sequence[Request], config: EngineConfig | None = None) -> Engine:
    """Decode all requests to the end, failed ones too, in a new engine, which is returned. Raises what a drafter raises."""
    engine = Engine(target, config or EngineConfig(max_num_seqs=64, on_drafter_error="raise"))
    for request in requests:
        engine.add(request)
    while engine.has_unfinished:
        engine.step()
    return engine


def generate(
    target: TargetModel,
    prompts: Sequence[Prompt],
    params: SamplingParams | None = None,
    drafter: Drafter | None = None,
    verifier: Verifier | str = "exact",
    num_draft_tokens: int | None = None,
    seed: int = 0,
    config: EngineConfig | None = None,
) -> list[list[int]]:
    """Output tokens of all prompts, decoded in one batch; prompt i has the seed `seed + i`. Without a drafter: plain decoding."""
    requests = [make_request(target, p, params, drafter, verifier, num_draft_tokens, seed + i) for i, p in enumerate(prompts)]
    return [request.output_token_ids for request in run(target, requests, config)]


def require(condition: bool, message: str) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(message)
