"""From a validated request to its answer, whole or as a stream: what chat and text completion share."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from outpace import __version__
from outpace.async_llm import GenerationJob
from outpace.drafters.prediction import prediction_usage
from outpace.drafters.spec import shown
from outpace.llm import LLM
from outpace.outputs import Event, RequestOutput, StreamPiece
from outpace.params import SamplingParams, StructuredOutput
from outpace.server.api.protocol import SamplingRequest
from outpace.server.api.trace import trace_of
from outpace.server.api.wire import DONE, EventStream, as_json, disconnected, json_response
from outpace.server.api_errors import ApiError
from outpace.server.policy import Policy, SpeculationRequest
from outpace.server.prometheus import ServerMetrics
from outpace.server.settings import ServerSettings
from outpace.server.worker import ServerRequest, Worker

logger = logging.getLogger("outpace")
Usage = Callable[[Sequence[RequestOutput]], dict[str, Any]]
RANDOM_SEED = -1  # llama.cpp's and vLLM's
SMALLEST_TOP_P = 1e-9  # the likeliest token only
APPLIED = (  # fields that SamplingParams has under the same name
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "prompt_logprobs",
    "stop_token_ids",
    "allowed_token_ids",
    "skip_special_tokens",
    "include_stop_str_in_output",
)
DRAFTER_FAILED = "the drafter failed and the answer was decoded without it; the server's log says why"  # no path, no exception text


@dataclass(frozen=True)
class Server:
    """What every endpoint uses; kept as `app.state.server`."""

    llm: LLM
    settings: ServerSettings
    worker: Worker
    metrics: ServerMetrics
    policy: Policy

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean that equal seeds give equal texts. Drafters are left out: the text does not depend on them."""
        return "fp_" + hashlib.sha256(f"{self.llm.name} {self.llm.precision} {__version__}".encode()).hexdigest()[:12]

    @property
    def names(self) -> tuple[str, ...]:
        """The model's names for clients; answers have the first one."""
        return self.settings.served_model_names or (self.llm.name,)

    def check_model(self, name: str | None) -> None:
        """Raises ApiError (404) unless the request names the model of this server, "default" or none."""
        if name not in (None, "default", *self.names):
            runs = " or ".join(map(repr, self.names))
            raise ApiError(404, f"this server has no model {name!r}; it runs {runs}", param="model", code="model_not_found")


class ResponseFormatter(ABC):
    """How one endpoint formats its answers. Made for one request; a stream passes its pieces in order."""

    prefix: str  # of the answer's id
    kind: str  # the `object` of a whole answer
    chunk_kind: str

    def select(self, outputs: Sequence[RequestOutput]) -> Sequence[RequestOutput]:
        """The answers to give of those that were drawn."""
        return outputs

    def extra(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """Further fields of the whole answer."""
        return {}

    @abstractmethod
    def choice(self, index: int, output: RequestOutput) -> dict[str, Any]:
        """A finished answer."""

    @abstractmethod
    def delta(self, index: int, piece: StreamPiece, is_first: bool) -> dict[str, Any]:
        """What a step added to an answer."""


def sampling_params(
    body: SamplingRequest, llm: LLM, max_tokens: int, logprobs: int | None, structured: StructuredOutput | None = None
) -> SamplingParams:
    """The engine's parameters of a request, with OpenAI's defaults. Raises BadInputError and ApiError (400)."""
    vocab_size = llm.target.capabilities.vocab_size
    for name in ("stop_token_ids", "allowed_token_ids"):
        if any(token >= vocab_size for token in getattr(body, name) or ()):
            raise ApiError(400, f"{name} has a token outside the vocabulary of {vocab_size}", param=name)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    given = {name: getattr(body, name) for name in APPLIED if getattr(body, name) is not None}
    return SamplingParams(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else max(body.top_p, SMALLEST_TOP_P),
        stop=[text for text in stop if text],
        max_tokens=max_tokens,
        logprobs=logprobs,
        n=body.n or 1,
        seed=secrets.randbits(32) if body.seed in (None, RANDOM_SEED) else body.seed % 2**62,
        logit_bias=None if body.logit_bias is None else {int(token): bias for token, bias in body.logit_bias.items()},
        structured=structured,
        bad_words_ids=_bad_words_ids(llm, body.bad_words or ()),
        **given,
    )


def _bad_words_ids(llm: LLM, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word, at the start of a text and after a space."""
    texts = [text for word in words for text in (word.lstrip(), " " + word.lstrip())]
    return tuple(dict.fromkeys(tuple(llm.tokenizer.encode(text, False)) for text in texts))


def room_for(server: Server, num_prompt_tokens: int, wanted: int | None, default: int, param: str = "max_tokens") -> int:
    """Maximum tokens of the answer. Raises ApiError (400) with the numbers when prompt or answer do not fit."""
    room = server.llm.engine.max_len - num_prompt_tokens
    if room < 1:
        message = f"the prompt has {num_prompt_tokens} tokens; with an answer of at least 1 token, at most {server.llm.engine.max_len} fit"
        raise ApiError(400, message, code="context_length_exceeded")
    if wanted is not None and wanted > room:
        message = f"{num_prompt_tokens} prompt tokens and {wanted} new ones do not fit into {server.llm.engine.max_len}"
        raise ApiError(400, message, param=param, code="context_length_exceeded")
    return min(default, room) if wanted is None else wanted


@dataclass(frozen=True)
class StartedRequest:
    """A request that the engine has accepted."""

    handle: ServerRequest
    speculation_request: SpeculationRequest


async def start(
    server: Server,
    request: Request,
    body: SamplingRequest,
    prompts: Sequence[tuple[list[int], SamplingParams]],
    prediction: list[int] | None = None,
) -> StartedRequest:
    """Hand prompts to the engine. `prediction`: tokens that the client expects in the answer. Raises ApiError."""
    speculation_request = server.policy.read(body.speculative)
    if speculation_request.trace and not body.stream:
        raise ApiError(400, "speculative.trace needs stream: true", param="speculative.trace")
    if server.settings.log_prompts:
        for token_ids, _ in prompts:
            logger.warning("prompt: %r", server.llm.tokenizer.decode(token_ids))
    jobs = [GenerationJob(token_ids, params, speculation_request.config, prediction) for token_ids, params in prompts]
    return StartedRequest(await server.worker.submit(jobs, getattr(request.state, "cache_salt", "")), speculation_request)


async def respond(
    server: Server,
    request: Request,
    body: SamplingRequest,
    formatter: ResponseFormatter,
    prompts: Sequence[tuple[list[int], SamplingParams]],
    prediction: list[int] | None = None,
) -> Response:
    """Run the prompts and answer in the endpoint's format."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    started = await start(server, request, body, prompts, prediction)
    frame = {"id": f"{formatter.prefix}-{uuid.uuid4().hex}", "object": formatter.kind, "created": int(time.time())}
    frame |= {"model": server.names[0], "system_fingerprint": server.fingerprint}
    if body.stream:
        has_usage = body.stream_options is not None and body.stream_options.include_usage
        usage = partial(usage_of, count=body.n or 1, has_prediction=prediction is not None) if has_usage else None
        answer = _Stream(server, started, formatter, {**frame, "object": formatter.chunk_kind}, usage)
        return EventStream(answer.lines(), started.handle.close)
    outputs = await collect(started.handle, request)
    if outputs is None:
        return Response(status_code=499)  # the client has gone
    selected = formatter.select(outputs)
    choices = [formatter.choice(index, output) for index, output in enumerate(selected)]
    counted = selected if len(selected) == len(outputs) else outputs  # all that were drawn
    usage_block = usage_of(counted, len(outputs) // len(prompts), prediction is not None)
    tail = {"usage": usage_block, "speculative": speculative_of(selected, started.speculation_request)}
    return json_response({**frame, "choices": choices, **formatter.extra(selected), **tail})


async def collect(handle: ServerRequest, request: Request) -> list[RequestOutput] | None:
    """The finished answers in order; None when the client has disconnected, whose slots are then free."""
    outputs: dict[int, RequestOutput] = {}

    async def gather() -> None:
        async for event in handle.events():
            if event.piece.output is not None:
                outputs[event.index] = event.piece.output

    reader, watcher = asyncio.ensure_future(gather()), asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait((reader, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not reader.done():
            return None
        reader.result()
        return [outputs[index] for index in range(handle.num_answers)]
    finally:
        handle.close()
        reader.cancel()
        watcher.cancel()
        await asyncio.gather(reader, watcher, return_exceptions=True)


class _Stream:
    """The chunks of one answer: one for every step with a trace, else one for every step that adds something to show."""

    def __init__(
        self,
        server: Server,
        started: StartedRequest,
        formatter: ResponseFormatter,
        frame: dict[str, Any],
        usage: Usage | None,
    ):
        self.server, self.handle, self.formatter, self.frame = server, started.handle, formatter, frame
        self.speculation_request, self.usage = started.speculation_request, usage
        self.outputs: dict[int, RequestOutput] = {}

    async def lines(self) -> AsyncIterator[str]:
        """The data of each server-sent event; a failure is the last one before the end mark."""
        try:
            async for event in self.handle.events():
                if event.piece.output is not None:
                    self.outputs[event.index] = event.piece.output
                if self._is_shown(event):
                    yield as_json(self._chunk(event))
            if self.usage:
                yield as_json({**self.frame, "choices": [], "usage": self.usage(self._in_order()), **self._summary()})
        except ApiError as error:
            yield as_json(error.body())
        yield DONE

    def _is_shown(self, event: Event) -> bool:
        piece = event.piece
        return bool(self.speculation_request.trace or event.step == 0 or piece.text or piece.output or piece.logprobs)

    def _chunk(self, event: Event) -> dict[str, Any]:
        chunk = {**self.frame, "choices": [self.formatter.delta(event.index, event.piece, event.step == 0)]}
        if self.usage:
            chunk["usage"] = None
        elif len(self.outputs) == self.handle.num_answers:
            chunk |= self._summary()
        if self.speculation_request.trace:
            chunk["trace"] = trace_of(self.server.llm.tokenizer, event)
        return chunk

    def _in_order(self) -> list[RequestOutput]:
        return [self.outputs[index] for index in sorted(self.outputs)]

    def _summary(self) -> dict[str, Any]:
        return {"speculative": speculative_of(self._in_order(), self.speculation_request)}


def usage_of(outputs: Sequence[RequestOutput], count: int, has_prediction: bool) -> dict[str, Any]:
    """Token counts; a prompt with several answers counts once. `outputs` has `count` entries per prompt.

    With a prediction they include how many of its tokens were accepted and rejected, summed over the answers.
    """
    prompts = outputs[::count]
    num_prompt = sum(len(output.prompt_token_ids) for output in prompts)
    num_completion = sum(len(output.token_ids) for output in outputs)
    num_cached = sum(output.stats.num_cached_prompt_tokens for output in prompts)
    usage = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }
    if not has_prediction:
        return usage
    counts = [prediction_usage(output) for output in outputs]
    details = {
        "accepted_prediction_tokens": sum(accepted for accepted, _ in counts),
        "rejected_prediction_tokens": sum(rejected for _, rejected in counts),
    }
    return usage | {"completion_tokens_details": details}


def speculative_of(outputs: Sequence[RequestOutput], speculation_request: SpeculationRequest) -> dict[str, Any] | list[dict[str, Any]]:
    """Which speculation was used, and its counters: one object, or a list with one for each of several choices."""
    blocks = []
    for output in outputs:
        stats = output.stats
        block = {
            "drafter": shown(output.drafter),
            "verifier": speculation_request.config.verifier,
            "seed": output.seed,
            "num_steps": stats.num_steps,
            "num_drafts": stats.num_drafts,
            "num_draft_tokens": stats.num_draft_tokens,
            "num_accepted_tokens": stats.num_accepted_tokens,
            "tokens_per_step": round(output.tokens_per_step, 4),
            "mean_acceptance_length": round(output.mean_acceptance_length, 4),
            "tokens_per_second": round(output.tokens_per_second, 2),
        }
        if stats.drafter_error is not None:
            block["drafter_error"] = DRAFTER_FAILED
        if speculation_request.sources:
            block["sources"] = [shown(source) for source in output.sources]
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else blocks
