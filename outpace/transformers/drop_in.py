"""`generate`: from the arguments of `model.generate` to requests of an engine, and from their tokens to a padded tensor."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList, StopStringCriteria

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.controller.strategy import Strategy
from outpace.engine.engine import Engine
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.transformers.arguments import drafting, end_token_ids, prompts_of, resolve, sampling_params_of
from outpace.transformers.live import running

MAX_BATCHED_TOKENS = 2048  # of prompts, in one forward pass

_ids = itertools.count()


def generate(
    model: Any,
    input_ids: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    attention_mask: torch.Tensor | None = None,
    speculative_config: SpeculativeConfig | Mapping[str, Any] | str | bool | None = None,
    assistant_model: Any = None,
    seed: int | None = None,
    streamer: Any = None,
    stopping_criteria: Sequence[Any] | None = None,
    tokenizer: Any = None,
    assistant_tokenizer: Any = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Continue `input_ids` [batch, prompt], padded on the left, as `model.generate` does; returns int64 [batch, prompt + new].

    `kwargs` are the options of a generation config. They take precedence over `generation_config`, which takes precedence over
    `model.generation_config`. `speculative_config` is any drafter spec, False for plain decoding or None for the default drafter;
    `assistant_model` becomes a draft model. Sequence i of the batch is sampled with the seed `seed + i`; without a seed, one is drawn from
    torch's global generator. Raises BadInputError (a ValueError) that names the argument for everything that is not supported.

    Calls that share a model run one after the other, so threads may share it. During a call the model is in evaluation mode; afterwards it
    is as before.
    """
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise BadInputError(f"model must be a live transformers model, not {type(model).__name__}")
    chosen = {"speculative_config": speculative_config, "assistant_model": assistant_model}
    options = resolve(getattr(model, "generation_config", None), generation_config, {**kwargs, **chosen})
    prompts, sequences = prompts_of(kwargs.get("inputs") if input_ids is None else input_ids, attention_mask, options)
    params = sampling_params_of(options, prompts.shape[1], model.config, seed)
    ends = end_token_ids(options)
    criteria = _criteria(options, tokenizer, stopping_criteria, len(sequences))
    if streamer is not None and len(sequences) > 1:
        raise BadInputError(f"streamer takes one sequence, not {len(sequences)}")
    with running(model, assistant_model) as live:
        strategy = live.strategy(model, drafting(options), assistant_model, tokenizer, assistant_tokenizer)
        requests = []
        for number, (token_ids, prompt) in enumerate(zip(sequences, prompts, strict=True)):
            stop_check = StopCheck(criteria, prompt) if len(criteria) else None
            requests.append(_request(token_ids, params, number, strategy, live.target.capabilities.vocab_size, stop_check))
        engine = Engine(live.target, EngineConfig(max_num_seqs=len(requests), max_num_batched_tokens=MAX_BATCHED_TOKENS))
        _run(engine, requests, prompts, streamer)
    pad_token_id = ends[0] if options["pad_token_id"] is None and ends else options["pad_token_id"]
    return _padded(prompts, [request.output_token_ids for request in requests], pad_token_id)


class StopCheck:
    """Asks stopping criteria of transformers after every token of one sequence, as `model.generate` does."""

    def __init__(self, criteria: StoppingCriteriaList, prompt: torch.Tensor):
        self.criteria, self.token_ids, self.device = criteria, prompt.tolist(), prompt.device

    def __call__(self, token_id: int) -> bool:
        self.token_ids.append(token_id)
        return bool(self.criteria(torch.tensor([self.token_ids], device=self.device), None).all())


def _criteria(
    options: Mapping[str, Any], tokenizer: Any, stopping_criteria: Sequence[Any] | None, num_sequences: int
) -> StoppingCriteriaList:
    """The stopping criteria besides length and end tokens. Raises BadInputError."""
    criteria = StoppingCriteriaList(stopping_criteria or [])
    if len(criteria) and num_sequences > 1:
        raise BadInputError(f"stopping_criteria takes one sequence, not {num_sequences}")
    if options["stop_strings"]:
        if tokenizer is None:
            raise BadInputError("stop_strings needs the tokenizer of the model: pass tokenizer=")
        if num_sequences > 1 and not end_token_ids(options):
            raise BadInputError("stop_strings with several sequences needs an eos_token_id")  # model.generate does not pad without one
        criteria.append(StopStringCriteria(tokenizer, options["stop_strings"]))
    return criteria


def _request(
    token_ids: list[int], params: SamplingParams, number: int, strategy: Strategy, vocab_size: int, stop_check: StopCheck | None
) -> Request:
    """The request of one sequence. `min_tokens` forbids end tokens but no stop string, so only the processors know it."""
    ends = frozenset(params.stop_token_ids)
    sampler = RequestSampler(params, (params.seed or 0) + number, build_processors(params, token_ids, ends, vocab_size))
    return Request(f"generate-{next(_ids)}", token_ids, replace(params, min_tokens=0), sampler, strategy, ends, stop_check)


def _run(engine: Engine, requests: Sequence[Request], prompts: torch.Tensor, streamer: Any) -> None:
    """Decode all requests to their ends. The streamer is given the prompt, then token by token. Raises the first error of a request."""
    added = []
    try:
        for request in requests:
            engine.add(request)
            added.append(request)
        if streamer is not None:
            streamer.put(prompts.cpu())
        while engine.has_unfinished:
            for output in engine.step():
                for token_id in output.token_ids if streamer is not None else ():
                    streamer.put(torch.tensor([token_id]))
                if output.request.error is not None:
                    raise output.request.error
        if streamer is not None:
            streamer.end()
    finally:
        for request in added:
            engine.abort(request)


def _padded(prompts: torch.Tensor, outputs: Sequence[Sequence[int]], pad_token_id: int | None) -> torch.Tensor:
    new = torch.full((len(outputs), max(map(len, outputs))), pad_token_id or 0)
    for row, output in zip(new, outputs, strict=True):
        row[: len(output)] = torch.tensor(output)
    return torch.cat([prompts, new.to(prompts.device)], dim=1)
