"""LLM: text in, text out. Puts target, engine and speculation together, and is the only place that knows both text and tokens."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.controller.factory import StrategyFactory
from outpace.controller.strategy import Strategy
from outpace.drafters.spec import check_specs, parse_specs, prefixed
from outpace.engine.engine import Engine
from outpace.errors import BadInputError
from outpace.models.find import DEFAULT_MODEL, PRECISIONS
from outpace.models.load import kind_of, load
from outpace.models.tokenizer import Messages, TextBuilder, Tokenizer
from outpace.outputs import Job, RequestOutput, StreamPiece
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling.grammar import GrammarCompiler
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.targets.base import TargetModel

SpeculativeLike = SpeculativeConfig | Strategy | Mapping[str, Any] | str | bool | None
Prompt = str | Sequence[int]


class LLM:
    """A model that answers, fast.

    model: "default", a hub id, a folder, a .gguf file, or a live transformers model (then pass its `tokenizer` too).
    speculative_config: a drafter spec such as "prompt_lookup" or "none"; every call may choose another by `speculative_config=`.
    target: auto | openvino | hf. precision: auto | int8 | bf16 | f32 (auto: int8 on OpenVINO, f32 for hf on CPU, bf16 on CUDA).
    Not thread-safe. Raises BadInputError (a ValueError) for anything the caller can mend.
    """

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        speculative_config: SpeculativeConfig | Mapping[str, Any] | str | bool | None = None,
        *,
        tokenizer: Any = None,
        target: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        num_draft_tokens: int | None = None,
        verifier: str = "exact",
        engine: EngineConfig | None = None,
    ):
        self.speculative_config = SpeculativeConfig.of(speculative_config)
        if num_draft_tokens is not None:
            self.speculative_config = replace(self.speculative_config, num_draft_tokens=num_draft_tokens)
        if verifier != "exact":
            self.speculative_config = replace(self.speculative_config, verifier=verifier)
        check_specs(self.speculative_config.method)  # what is wrong with it is told before the model loads
        config = engine or EngineConfig()
        loaded = load(model, tokenizer, target, precision, threads, config)
        self.name, self.target, self.tokenizer, self.eos_token_ids, self.precision = loaded
        self._load_arguments = (model, kind_of(model, target), threads, config)
        self.engine = Engine(self.target, config)
        self.grammars = GrammarCompiler(self.tokenizer.fast, self.target.capabilities.vocab_size, self.eos_token_ids)
        self.strategies = StrategyFactory(self.target, self.tokenizer, self._load_draft_model)
        self._jobs: dict[str, Job] = {}
        self._ids = itertools.count()
        self.strategy(self.speculative_config)  # wrong options are told now, not at the first prompt

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | None = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        streamer: Any = None,
    ) -> list[RequestOutput]:
        """Complete raw texts (or token ids), all in one batch; outputs in the order of the prompts.

        `streamer` is a transformers TextStreamer (one prompt only). A request that fails ends with finish_reason "error".
        """
        batch = _as_batch(prompts)
        if streamer is not None and len(batch) != 1:
            raise BadInputError("a streamer takes one prompt at a time")
        jobs: list[Job] = []
        try:
            for prompt in batch:
                jobs.append(self.submit(prompt, sampling_params, speculative_config=speculative_config, prediction=prediction))
            if streamer is not None:
                streamer.put(np.array([jobs[0].request.token_ids]))
            while not all(job.is_done for job in jobs):
                self.step()
                if streamer is not None and (token_ids := jobs[0].take().token_ids):
                    streamer.put(np.array(token_ids))
            if streamer is not None:
                streamer.end()
            return [job.output() for job in jobs]
        finally:
            for job in jobs:
                self.abort(job)

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
    ) -> Iterator[StreamPiece]:
        """Complete one raw text, piece by piece. Leaving the loop early frees the request at once."""
        job = self.submit(prompt, sampling_params, speculative_config=speculative_config, prediction=prediction)
        try:
            is_done = False
            while not is_done:
                if not job.is_done:  # else another call's steps have finished it
                    self.step()
                piece = job.take()
                is_done = piece.output is not None
                if piece.token_ids or is_done:
                    yield piece
        finally:
            self.abort(job)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | None = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        streamer: Any = None,
    ) -> list[RequestOutput]:
        """Answer one conversation (a list of {"role", "content"}) or several, in the model's chat format."""
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
            raise BadInputError("chat takes a list of messages with 'role' and 'content', or a list of such lists")
        several: Any = [messages] if not messages or isinstance(messages[0], Mapping) else messages
        prompts = [self.tokenizer.encode_chat(conversation) for conversation in several]
        return self.generate(prompts, sampling_params, speculative_config=speculative_config, prediction=prediction, streamer=streamer)

    def strategy(self, speculative_config: SpeculativeLike, has_prediction: bool = False) -> Strategy:
        """The drafter, verifier and controller for these settings; built once. Raises BadInputError for wrong ones.

        With a prediction the drafter `prediction` comes first, unless there is to be no drafter at all.
        """
        if isinstance(speculative_config, Strategy):
            return speculative_config
        config = self.speculative_config if speculative_config is None else SpeculativeConfig.of(speculative_config)
        if has_prediction and not {spec.name for spec in parse_specs(config.method)} & {"none", "prediction"}:
            config = replace(config, method=prefixed("prediction", config.method))
        return self.strategies.of(config)

    def _load_draft_model(self, name: str, num_layers: int | None) -> tuple[TargetModel, Tokenizer]:
        """A further model on the same kind of target; "self" is this model (live ones share their weights)."""
        model, kind, threads, config = self._load_arguments
        source, tokenizer = (getattr(self.target, "model", model), self.tokenizer) if name == "self" else (name, None)
        precision = self.precision if kind == "openvino" or self.precision in PRECISIONS else "auto"
        _, target, tokenizer, _, _ = load(source, tokenizer, kind, precision, threads, config, num_layers)
        return target, tokenizer

    def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        cache_salt: str = "",
    ) -> Job:
        """Queue one prompt for `step` to work on; end every job with `abort`. For callers that drive the loop, such as the server.

        Requests of different `cache_salt` teach drafters nothing about each other and take turns at being admitted.
        """
        sampling_params = sampling_params or SamplingParams()
        token_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else _as_token_ids(prompt)
        room = self.engine.max_len - len(token_ids)
        if room < 1:
            raise BadInputError(f"the prompt has {len(token_ids)} tokens; with one new token at most {self.engine.max_len} fit")
        if sampling_params.max_tokens > room:
            sampling_params = replace(sampling_params, max_tokens=room, min_tokens=min(sampling_params.min_tokens, room))
        seed = sampling_params.seed if sampling_params.seed is not None else secrets.randbits(32) if not sampling_params.is_greedy else 0
        ends = frozenset(sampling_params.stop_token_ids) | (frozenset() if sampling_params.ignore_eos else self.eos_token_ids)
        vocab_size = self.target.capabilities.vocab_size
        processors = build_processors(sampling_params, token_ids, ends, vocab_size)
        if sampling_params.structured is not None:
            processors.append(self.grammars.processor(sampling_params.structured, ends))
        sampler = RequestSampler(sampling_params, seed, processors)
        builder = TextBuilder(self.tokenizer, sampling_params.stop, sampling_params.min_tokens)
        name = f"request-{next(self._ids)}"
        expected = self._expected(prediction)
        strategy = self.strategy(speculative_config, bool(expected))
        request = Request(
            name, token_ids, sampling_params, sampler, strategy, ends, builder.feed, prediction=expected, cache_salt=cache_salt
        )
        self.engine.add(request)
        self._jobs[name] = job = Job(request, builder, seed)
        return job

    def _expected(self, prediction: Prompt | None) -> list[int]:
        """The tokens of a prediction. Raises BadInputError."""
        if prediction is None:
            return []
        expected = self.tokenizer.encode(prediction, False) if isinstance(prediction, str) else _as_token_ids(prediction)
        vocab_size = self.target.capabilities.vocab_size
        if expected and not 0 <= min(expected) <= max(expected) < vocab_size:
            raise BadInputError(f"the prediction has a token outside the vocabulary of {vocab_size}")
        return expected

    def step(self) -> list[Job]:
        """One pass of the model for all jobs; returns those that got something."""
        advanced = []
        for output in self.engine.step():
            job = self._jobs[output.request.id]
            job.steps.append(output)
            advanced.append(job)
        return advanced

    def abort(self, job: Job) -> None:
        """Forget a job, finished or not; its slot is free when this returns."""
        self.engine.abort(job.request)
        self._jobs.pop(job.request.id, None)


def _as_batch(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts out of one prompt (a text or token ids) or several."""
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, (Sequence, np.ndarray)):
        raise BadInputError(f"a prompt is a text or a list of token ids, not {type(prompts).__name__}")
    if len(prompts) == 0:
        raise BadInputError("there is no prompt")
    batch: Any = [prompts] if isinstance(prompts[0], (int, np.integer)) else list(prompts)
    return list(batch)


def _as_token_ids(prompt: Any) -> list[int]:
    if not isinstance(prompt, (Sequence, np.ndarray)) or not all(isinstance(token, (int, np.integer)) for token in prompt):
        raise BadInputError("a prompt is a text or a list of token ids (integers)")
    return [int(token) for token in prompt]
