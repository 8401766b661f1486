"""LLM: text in, text out. It connects target, engine and speculation, and is the only place that knows both text and tokens."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from outpace.config import DeviceConfig, EngineConfig, SpeculativeConfig
from outpace.controller.factory import StrategyFactory, with_prediction
from outpace.controller.strategy import Strategy
from outpace.drafters.spec import check_specs
from outpace.engine.engine import Engine
from outpace.engine.turn import Turn
from outpace.errors import BadInputError, OutpaceError
from outpace.models.find import DEFAULT_MODEL, PRECISIONS
from outpace.models.load import kind_of, load
from outpace.models.tokenizer import ChatTokens, Messages, TextBuilder, Tokenizer
from outpace.outputs import Job, RequestOutput, StreamPiece, ending, failure
from outpace.params import Prompt, SamplingParams, conversations_of, prompts_of, sampling_params_of, token_ids_of
from outpace.request import Request
from outpace.sampling.grammar import GrammarCompiler
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.targets.base import TargetModel

SpeculativeLike = SpeculativeConfig | Strategy | Mapping[str, Any] | str | bool | None
SamplingLike = SamplingParams | Mapping[str, Any] | None


class LLM:
    """A language model, decoded speculatively.

    model: "default", a hub id, a folder, a .gguf file, or a live transformers model (then pass its `tokenizer` too).
    speculative_config: a drafter spec such as "prompt_lookup" or "none", or a dict with vLLM's keys; each call may override it.
    target: auto | openvino | hf. precision: auto | int8 | int4 | bf16 | f32. auto means on OpenVINO int8, from 300 million parameters on
    int4; for hf f32 on CPU and bf16 on CUDA. device: auto | cpu | cuda | cuda:N. exact_width: see DeviceConfig.

    Threads may share an LLM: they take turns step by step, and their requests run together in one batch. A forked process cannot use
    its parent's LLM. `close()`, or leaving a `with LLM(...) as llm:` block, ends all requests and releases the model.
    Raises BadInputError (a ValueError) for whatever the caller can correct.
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
        device: str = "auto",
        exact_width: int | None = None,
        num_draft_tokens: int | None = None,
        verifier: str = "exact",
        engine: EngineConfig | Mapping[str, Any] | None = None,
    ):
        settings = SpeculativeConfig.of(speculative_config)
        count = settings.num_draft_tokens if num_draft_tokens is None else num_draft_tokens
        judge = settings.verifier if verifier == "exact" else verifier
        self.speculative_config = replace(settings, num_draft_tokens=count, verifier=judge)
        check_specs(self.speculative_config.method)  # fails before the model loads
        config = EngineConfig.of(engine)
        place = DeviceConfig(device, exact_width)
        loaded = load(model, tokenizer, target, precision, threads, config, None, place)
        self.name, self.target, self.tokenizer, self.eos_token_ids, self.precision = loaded
        self._load_arguments = (model, kind_of(model, target, place), threads, config, DeviceConfig(device))
        self.engine = Engine(self.target, config)
        self.grammars = GrammarCompiler(self.tokenizer.fast, self.target.capabilities.vocab_size, self.eos_token_ids)
        self.is_closed = False
        self._jobs: dict[str, Job] = {}
        self._abandoned: list[Job] = []
        self._ids = itertools.count()
        self._turn = Turn()
        self.strategies = StrategyFactory(self.target, self.tokenizer, self._load_draft_model, self._turn)
        self.strategy(self.speculative_config)  # fails now for wrong options, not at the first prompt

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingLike | Sequence[SamplingLike] = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        streamer: Any = None,
        return_errors: bool = False,
    ) -> list[RequestOutput]:
        """Complete raw texts (or token ids) in one batch; one output per answer, in the order of the prompts.

        sampling_params: SamplingParams or a dict of its fields, for all prompts, or a list with one for each. A prompt with `n` answers
        has `n` outputs in a row. streamer: a transformers TextStreamer, for a single answer; its `end()` is always called.
        A request that fails while it runs raises OutpaceError, or the BadInputError that ended it; with `return_errors` its output has
        the finish_reason "error" and the exception as `error` instead.
        """
        with ending(streamer):
            return self._generate(prompts, sampling_params, speculative_config, prediction, streamer, return_errors)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingLike | Sequence[SamplingLike] = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        streamer: Any = None,
        return_errors: bool = False,
    ) -> list[RequestOutput]:
        """Answer one conversation (a list of {"role", "content"}) or several, in the model's chat format; otherwise as `generate`."""
        with ending(streamer):
            prompts = [self.tokenizer.encode_chat(conversation) for conversation in conversations_of(messages)]
            return self._generate(prompts, sampling_params, speculative_config, prediction, streamer, return_errors)

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingLike = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        return_errors: bool = False,
    ) -> Iterator[StreamPiece]:
        """Complete one raw text, piece by piece; with `n` answers the pieces of all of them, marked by `index`.

        Leaving the loop early frees the request. A request that fails gives its last piece and then raises, as `generate` does.
        """
        jobs = running = self.submit_all(prompt, sampling_params, speculative_config=speculative_config, prediction=prediction)
        try:
            while running:
                with self._exclusive():
                    if not any(job.steps or job.is_done for job in running):  # else another call's steps have given something
                        self._step()
                    pieces = [job.take() for job in running if job.steps or job.is_done]
                running = [job for job in running if not job.is_done]
                for piece in pieces:
                    if piece.token_ids or piece.output is not None:
                        yield piece
                    if piece.output is not None and piece.output.error is not None and not return_errors:
                        raise failure(piece.output.error)
        finally:
            self._abort_all(jobs)

    def _generate(
        self, prompts: Any, sampling_params: Any, speculative_config: Any, prediction: Any, streamer: Any, return_errors: bool
    ) -> list[RequestOutput]:
        batch = prompts_of(prompts)
        each = sampling_params_of(sampling_params, len(batch))
        if streamer is not None and (len(batch) != 1 or each[0].n != 1):
            raise BadInputError("a streamer takes one prompt with one answer at a time")
        jobs: list[Job] = []
        try:
            for prompt, own in zip(batch, each, strict=True):
                jobs += self.submit_all(prompt, own, speculative_config=speculative_config, prediction=prediction)
            if streamer is not None:
                streamer.put(np.array([jobs[0].request.token_ids]))
            while not all(job.is_done for job in jobs):
                with self._exclusive():
                    if not all(job.is_done for job in jobs):  # another thread's step may have finished them
                        self._step()
                    token_ids = jobs[0].take().token_ids if streamer is not None else []
                    for job in jobs:
                        job.steps.clear()  # nobody reads them
                if token_ids:
                    streamer.put(np.array(token_ids))
                for error in (job.request.error for job in jobs):
                    if error is not None and not return_errors:
                        raise failure(error)
            return [job.output() for job in jobs]
        finally:
            self._abort_all(jobs)

    # ---- the loop, for callers that drive it

    def submit(self, prompt: Prompt, sampling_params: SamplingLike = None, **options: Any) -> Job:
        """Queue one prompt with one answer, with the options of `submit_all`."""
        (job,) = self.submit_all(prompt, replace(SamplingParams.of(sampling_params), n=1), **options)
        return job

    def submit_all(
        self,
        prompt: Prompt,
        sampling_params: SamplingLike = None,
        *,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        cache_salt: str = "",
    ) -> list[Job]:
        """Queue one prompt for `step` to work on: a job for each of its `n` answers. End every job with `abort`.

        Requests of different `cache_salt` share no K/V, drafters learn nothing across them, and they take turns at being admitted.
        """
        self.check_usable()
        params = SamplingParams.of(sampling_params)
        token_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else token_ids_of(prompt)
        expected = self._expected(prediction)
        strategy = self.strategy(speculative_config, bool(expected))
        with self._exclusive():
            room = self.engine.max_len - len(token_ids)
            if room < 1:
                raise BadInputError(f"the prompt has {len(token_ids)} tokens; with one new token at most {self.engine.max_len} fit")
            if params.max_tokens > room:
                params = replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
            seed = params.seed if params.seed is not None else secrets.randbits(32) if not params.is_greedy else 0
            shared = {"strategy": strategy, "prediction": expected, "cache_salt": cache_salt}
            jobs = [self._job(token_ids, params, seed + index, index, shared) for index in range(params.n)]
            for job in () if isinstance(prompt, ChatTokens) else jobs:
                job.builder.follow(token_ids)
            self._start(jobs[0])
            jobs[0].siblings = jobs[1:]
            self._jobs |= {job.request.id: job for job in jobs}
        return jobs

    def step(self) -> list[Job]:
        """One forward pass of the model for all jobs; returns those that it added something to."""
        with self._exclusive():
            return self._step()

    def take(self, job: Job) -> StreamPiece:
        """What was added to a job since the last call."""
        with self._exclusive():
            return job.take()

    def abort(self, job: Job) -> None:
        """Forget a job, finished or not; its slot is free when this returns. Does nothing once the LLM is closed."""
        if self._turn.is_mine:  # the garbage collector ends a forgotten stream in the middle of a step
            self._abandoned.append(job)
            return
        with self._turn:
            if not self.is_closed:
                self._abort(job)

    def close(self) -> None:
        """End all requests and release the model. Later calls raise OutpaceError, except for this one, which does nothing."""
        if self.is_closed or self._turn.is_foreign:
            return
        with self._turn:
            for job in list(self._jobs.values()):
                self._abort(job)
            self.is_closed = True
            del self.engine, self.grammars, self.strategies, self.target, self._load_arguments

    def check_usable(self) -> None:
        """Raises OutpaceError once the LLM is closed, and in a forked process."""
        self._turn.check_process()
        if self.is_closed:
            raise OutpaceError("this LLM is closed")

    # ---- how to speculate

    def strategy(self, speculative_config: SpeculativeLike, has_prediction: bool = False) -> Strategy:
        """The drafter, verifier and controller for these settings; built once, while other requests go on. Raises BadInputError for wrong
        ones.

        With a prediction the drafter `prediction` comes first, unless the settings ask for no drafter at all.
        """
        self.check_usable()
        if isinstance(speculative_config, Strategy):
            return speculative_config
        config = self.settings(speculative_config, has_prediction)
        return self.strategies.of(config, config in (self.speculative_config, self.settings(None, True)))

    def settings(self, speculative_config: Any, has_prediction: bool = False) -> SpeculativeConfig:
        """The settings of `strategy`. Raises BadInputError."""
        config = self.speculative_config if speculative_config is None else SpeculativeConfig.of(speculative_config)
        return with_prediction(config) if has_prediction else config

    def _load_draft_model(self, name: str, num_layers: int | None) -> tuple[TargetModel, Tokenizer]:
        """A further model on the same kind of target; "self" is this model (live ones share their weights)."""
        model, kind, threads, config, device = self._load_arguments
        source, tokenizer = (getattr(self.target, "model", model), self.tokenizer) if name == "self" else (name, None)
        precision = self.precision if kind == "openvino" or self.precision in PRECISIONS else "auto"
        _, target, tokenizer, _, _ = load(source, tokenizer, kind, precision, threads, config, num_layers, device, is_draft=True)
        return target, tokenizer

    # ---- jobs; the caller holds the lock

    def _job(self, token_ids: list[int], params: SamplingParams, seed: int, index: int, shared: Mapping[str, Any]) -> Job:
        """One answer to a prompt, not started yet. Raises BadInputError."""
        ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.eos_token_ids)
        processors = build_processors(params, token_ids, ends, self.target.capabilities.vocab_size)
        if params.structured is not None:
            processors.append(self.grammars.processor(params.structured, ends))
        sampler = RequestSampler(params, seed, processors)
        builder = TextBuilder.of(self.tokenizer, params, ends)
        name = f"request-{next(self._ids)}"
        request = Request(name, list(token_ids), params, sampler, stop_token_ids=ends, stop_check=builder.feed, **shared)
        return Job(request, builder, seed, index)

    def _expected(self, prediction: Prompt | None) -> list[int]:
        """The tokens of a prediction. Raises BadInputError."""
        if prediction is None:
            return []
        expected = self.tokenizer.encode(prediction, False) if isinstance(prediction, str) else token_ids_of(prediction, "prediction")
        vocab_size = self.target.capabilities.vocab_size
        if expected and not 0 <= min(expected) <= max(expected) < vocab_size:
            raise BadInputError(f"the prediction has a token outside the vocabulary of {vocab_size}")
        return expected

    def _start(self, *jobs: Job) -> None:
        for job in jobs:
            if not job.is_done:
                self.engine.add(job.request)
                job.is_started = True

    def _start_siblings(self, job: Job) -> None:
        siblings, job.siblings = job.siblings, []
        self._start(*siblings)

    def _step(self) -> list[Job]:
        while self._abandoned:
            self._abort(self._abandoned.pop())
        advanced = []
        for output in self.engine.step():
            job = self._jobs[output.request.id]
            job.steps.append(output)
            self._start_siblings(job)
            advanced.append(job)
        return advanced

    def _abort(self, job: Job) -> None:
        if job.is_started:
            self.engine.abort(job.request)
        elif not job.is_done:
            job.request.finish_reason = "abort"
        self._start_siblings(job)
        self._jobs.pop(job.request.id, None)

    def _abort_all(self, jobs: Sequence[Job]) -> None:
        for job in reversed(jobs):  # siblings before the one that would start them
            self.abort(job)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """The lock of an LLM that can be used. Raises OutpaceError."""
        with self._turn:
            self.check_usable()
            yield
