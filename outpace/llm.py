"""LLM: text in, text out. Builds target, drafters and verifiers, runs the engine, and is the only place that knows both text and tokens."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from outpace.config import EngineConfig, SpeculativeConfig
from outpace.controller import FixedController, Speculation
from outpace.core import Request, RequestStats, SamplingParams, StepOutput
from outpace.drafters import DrafterContext, create_drafter, parse_specs
from outpace.engine import Engine
from outpace.errors import BadInputError
from outpace.metrics import acceptance_rate, mean_acceptance_length
from outpace.models import DEFAULT_MODEL, converted, locate
from outpace.processors import build_processors
from outpace.sampling import RequestSampler
from outpace.targets import create_target
from outpace.targets.base import TargetModel
from outpace.tokenizer import Messages, TextBuilder, Tokenizer
from outpace.verifiers import create_verifier

Speculative = SpeculativeConfig | Speculation | Mapping[str, Any] | str | bool | None
Prompt = str | Sequence[int]
MAX_SPECULATIONS = 32  # drafters hold tables; a server's clients may name any number of them


@dataclass(frozen=True)
class RequestOutput:
    """One finished answer. `from_draft[i]`: was token i a guess that was kept? `sources[i]`: whose, "" if it is the model's own.
    `pieces[i]`: the text it added."""

    text: str
    token_ids: list[int]
    from_draft: list[bool]
    pieces: list[str]
    finish_reason: str  # stop, length, abort or error
    prompt_token_ids: list[int]
    drafter: str
    seed: int
    stats: RequestStats
    logprobs: list[dict[int, float]] | None = None
    error: Exception | None = None
    sources: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Decoding only; prefill is not counted."""
        return len(self.token_ids) / self.stats.decode_seconds if self.stats.decode_seconds else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        return mean_acceptance_length(len(self.token_ids), self.stats.num_steps)

    @property
    def acceptance_rate(self) -> float:
        return acceptance_rate(self.stats.num_accepted_tokens, self.stats.num_draft_tokens)


@dataclass(frozen=True)
class StreamPiece:
    """What one step added: text that is final, and the tokens behind it. The last piece carries the whole `output`.

    `pieces[i]` is the text of token i (of a stop string it may show what `text` holds back), `logprobs[i]` its log-probabilities.
    """

    text: str
    token_ids: list[int]
    from_draft: list[bool]
    finish_reason: str | None
    output: RequestOutput | None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[int, float]] | None = None
    steps: list[StepOutput] = field(default_factory=list)


class Job:
    """A request on its way, with its text."""

    def __init__(self, request: Request, builder: TextBuilder, seed: int):
        self.request, self.builder, self.seed = request, builder, seed
        self.num_streamed = 0
        self.num_taken = 0  # tokens
        self.steps: list[StepOutput] = []

    @property
    def is_done(self) -> bool:
        return self.request.finish_reason is not None

    def take(self) -> StreamPiece:
        """Everything since the last call."""
        done = self.is_done
        if done:
            self.builder.finish()
        end = len(self.builder.text) if done else self.builder.num_streamable
        text, self.num_streamed = self.builder.text[self.num_streamed : end], max(end, self.num_streamed)
        steps, self.steps = self.steps, []
        token_ids = [token for step in steps for token in step.token_ids]
        from_draft = [bool(source) for step in steps for source in step.sources]
        start, self.num_taken = self.num_taken, self.num_taken + len(token_ids)
        logprobs = None if self.request.logprobs is None else self.request.logprobs[start : self.num_taken]
        output = self.output() if done else None
        pieces = self.builder.pieces_from(start, self.num_taken)
        return StreamPiece(text, token_ids, from_draft, self.request.finish_reason, output, pieces, logprobs, steps)

    def output(self) -> RequestOutput:
        """The answer so far; finish_reason "abort" while it is not done."""
        request = self.request
        return RequestOutput(
            text=self.builder.finish(),
            token_ids=request.output_token_ids,
            from_draft=request.from_draft,
            sources=request.sources,
            pieces=self.builder.pieces,
            finish_reason=request.finish_reason or "abort",
            prompt_token_ids=request.token_ids[: request.num_prompt_tokens],
            drafter=request.speculation.name,
            seed=self.seed,
            stats=request.stats,
            logprobs=request.logprobs,
            error=request.error,
        )


class LLM:
    """A model that answers, fast.

    model: "default", a hub id, a folder, a .gguf file, or a live transformers model (then pass its `tokenizer` too).
    drafter: a drafter spec such as "prompt_lookup" or "none"; every call may choose another by `speculative=`.
    target: auto | openvino | hf. precision: auto | int8 | bf16 | f32 (auto: int8 on OpenVINO, f32 for hf on CPU, bf16 on CUDA).
    Not thread-safe. Raises BadInputError (a ValueError) for anything the caller can mend.
    """

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        drafter: SpeculativeConfig | Mapping[str, Any] | str | bool | None = None,
        *,
        tokenizer: Any = None,
        target: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        num_draft_tokens: int | None = None,
        verifier: str = "exact",
        engine: EngineConfig | None = None,
    ):
        self.speculative = SpeculativeConfig.of(drafter)
        if num_draft_tokens is not None:
            self.speculative = replace(self.speculative, num_draft_tokens=num_draft_tokens)
        if verifier != "exact":
            self.speculative = replace(self.speculative, verifier=verifier)
        parse_specs(self.speculative.method)  # a wrong name is told before the model loads
        config = engine or EngineConfig()
        loaded = load(model, tokenizer, target, precision, threads, config)
        self.name, self.target, self.tokenizer, self.eos_token_ids, self.precision = loaded
        self.engine = Engine(self.target, config)
        self._speculations: dict[SpeculativeConfig, Speculation] = {}
        self._jobs: dict[str, Job] = {}
        self._ids = itertools.count()
        self.speculation(self.speculative)  # wrong options are told now, not at the first prompt

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        speculative: Speculative = None,
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
                jobs.append(self.submit(prompt, params, speculative=speculative))
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

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, *, speculative: Speculative = None) -> Iterator[StreamPiece]:
        """Complete one raw text, piece by piece. Leaving the loop early frees the request at once."""
        job = self.submit(prompt, params, speculative=speculative)
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
        params: SamplingParams | None = None,
        *,
        speculative: Speculative = None,
        streamer: Any = None,
    ) -> list[RequestOutput]:
        """Answer one conversation (a list of {"role", "content"}) or several, in the model's chat format."""
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
            raise BadInputError("chat takes a list of messages with 'role' and 'content', or a list of such lists")
        several: Any = [messages] if not messages or isinstance(messages[0], Mapping) else messages
        prompts = [self.tokenizer.encode_chat(conversation) for conversation in several]
        return self.generate(prompts, params, speculative=speculative, streamer=streamer)

    def speculation(self, speculative: Speculative) -> Speculation:
        """The drafter, verifier and controller for these settings; the latest MAX_SPECULATIONS are kept. Raises BadInputError."""
        if isinstance(speculative, Speculation):
            return speculative
        config = self.speculative if speculative is None else SpeculativeConfig.of(speculative)
        if config not in self._speculations:
            drafter = create_drafter(config.method, DrafterContext(self.target))
            count = drafter.num_draft_tokens if config.num_draft_tokens is None else config.num_draft_tokens
            self._speculations[config] = Speculation(config.method, drafter, create_verifier(config.verifier), FixedController(count))
        self._speculations[config] = found = self._speculations.pop(config)  # the latest one stands last
        if len(self._speculations) > MAX_SPECULATIONS:
            del self._speculations[next(iter(self._speculations))]
        return found

    def submit(
        self, prompt: Prompt, params: SamplingParams | None = None, *, speculative: Speculative = None, memory_scope: str = ""
    ) -> Job:
        """Queue one prompt for `step` to work on; end every job with `abort`. For callers that drive the loop, such as the server.

        Requests of different `memory_scope` teach drafters nothing about each other and take turns at being admitted.
        """
        params = params or SamplingParams()
        token_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else _as_token_ids(prompt)
        room = self.engine.max_len - len(token_ids)
        if room < 1:
            raise BadInputError(f"the prompt has {len(token_ids)} tokens; with one new token at most {self.engine.max_len} fit")
        if params.max_tokens > room:
            params = replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
        seed = params.seed if params.seed is not None else secrets.randbits(32) if not params.is_greedy else 0
        ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.eos_token_ids)
        vocab_size = self.target.capabilities.vocab_size
        sampler = RequestSampler(params, seed, build_processors(params, token_ids, ends, vocab_size))
        builder = TextBuilder(self.tokenizer, params.stop, params.min_tokens)
        name = f"request-{next(self._ids)}"
        request = Request(name, token_ids, params, sampler, self.speculation(speculative), ends, builder.feed)
        request.memory_scope = memory_scope
        self.engine.add(request)
        self._jobs[name] = job = Job(request, builder, seed)
        return job

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


def load(
    model: Any, tokenizer: Any, target: str, precision: str, threads: int | None, config: EngineConfig
) -> tuple[str, TargetModel, Tokenizer, frozenset[int], str]:
    """(name, target, tokenizer, end token ids, precision) of a model given by name or as a live object."""
    if threads is not None and threads < 1:
        raise BadInputError(f"threads must be at least 1, not {threads}")
    if target == "auto":
        target = "hf" if not isinstance(model, (str, Path)) or _has_cuda() else "openvino"
    if target == "hf":
        return _load_hf(model, tokenizer, precision, threads, config)
    if not isinstance(model, (str, Path)):
        raise BadInputError(f"a live model object needs target hf, not {target!r}")
    if target != "openvino":
        raise BadInputError(f"unknown target {target!r}; known: auto, openvino, hf")
    precision = "int8" if precision == "auto" else precision
    found = converted(str(model), precision)
    options = {"vocab_size": found.vocab_size, "max_len": found.max_len, "precision": precision, "threads": threads}
    built = create_target("openvino", found.folder / "model.xml", kv_cache_tokens=config.kv_cache_tokens, **options)
    text = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_folder(found.folder)
    return found.name, built, text, frozenset(found.eos_token_ids), precision


def _load_hf(
    model: Any, tokenizer: Any, precision: str, threads: int | None, config: EngineConfig
) -> tuple[str, TargetModel, Tokenizer, frozenset[int], str]:
    from outpace.models import transformers_io

    name = "live model"
    if isinstance(model, (str, Path)):
        source = locate(str(model))
        name, live = source.name, transformers_io.load_for_hf(source.path, precision, threads)
        tokenizer = tokenizer or transformers_io.load_tokenizer(source.path)
    else:
        live = model
    if tokenizer is None:
        raise BadInputError("pass the tokenizer that belongs to the live model: LLM(model, tokenizer=…)")
    text = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_transformers(tokenizer)
    built = create_target("hf", live, max_len=config.max_model_len)
    return name, built, text, frozenset(transformers_io.end_token_ids(live)), transformers_io.precision_of(live)


def _has_cuda() -> bool:
    """Is an NVIDIA device in use by torch? Looks at the driver first, so that machines without one never import torch."""
    if not Path("/proc/driver/nvidia/version").exists():
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
