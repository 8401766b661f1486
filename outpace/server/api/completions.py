"""POST /v1/completions: continue a raw text, without the chat format."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outpace.llm import LLM
from outpace.models.tokenizer import Tokenizer
from outpace.outputs import RequestOutput, StreamPiece
from outpace.params import SamplingParams
from outpace.server.api.fill_in import fill_in_ends, fill_in_prompt
from outpace.server.api.generation import ResponseFormatter, Server, respond, room_for, sampling_params
from outpace.server.api.protocol import CompletionRequest
from outpace.server.api.tolerance import TolerantRoute
from outpace.server.api.trace import token_key
from outpace.server.api_errors import ApiError

router = APIRouter(route_class=TolerantRoute)
DEFAULT_MAX_TOKENS = 16  # OpenAI's
LEAST_LOGPROB = -9999.0  # OpenAI's value for "impossible"
Rows = Sequence[Mapping[int, float] | None]


class CompletionFormatter(ResponseFormatter):
    """Answers as texts. `echoes` are the prompts as text, which are put in front of their answers."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, body: CompletionRequest, echoes: Sequence[str]):
        self.tokenizer, self.body, self.echoes = tokenizer, body, echoes
        self.num_kept, self.num_drawn = body.n or 1, body.best_of or body.n or 1
        self.offsets: dict[int, int] = defaultdict(int)  # choice -> length of the text so far

    def select(self, outputs: Sequence[RequestOutput]) -> list[RequestOutput]:
        """The best answers to each prompt, by log-probability per token; answers of no tokens where only the prompt was asked for."""
        if self.body.max_tokens == 0:
            nothing: dict[str, Any] = {"text": "", "token_ids": [], "pieces": [], "from_draft": [], "sources": []}
            outputs = [
                replace(output, logprobs=None if output.logprobs is None else [], finish_reason="length", **nothing) for output in outputs
            ]
        groups = [outputs[start : start + self.num_drawn] for start in range(0, len(outputs), self.num_drawn)]
        return [output for group in groups for output in sorted(group, key=_mean_logprob, reverse=True)[: self.num_kept]]

    def choice(self, index: int, output: RequestOutput) -> dict[str, Any]:
        rows = None if output.logprobs is None else list(output.logprobs)
        return self._choice(index, output.text, output.token_ids, output.pieces, rows, output.finish_reason, output)

    def delta(self, index: int, piece: StreamPiece, is_first: bool) -> dict[str, Any]:
        first = piece.steps[0].request if is_first and piece.steps else None
        return self._choice(index, piece.text, piece.token_ids, piece.pieces, piece.logprobs, piece.finish_reason, first)

    def _choice(
        self,
        index: int,
        text: str,
        token_ids: Sequence[int],
        pieces: Sequence[str],
        rows: Rows | None,
        finish_reason: str | None,
        beginning: Any,
    ) -> dict[str, Any]:
        """`beginning`: the output or request with the prompt, where the answer starts."""
        logprobs = None
        echo = self.echoes[index // self.num_kept] if self.echoes and beginning is not None else ""
        if self.body.logprobs is not None and rows is not None:
            if echo and beginning.prompt_logprobs is not None:
                prompt = list(_prompt_of(beginning))
                token_ids, rows = [*prompt, *token_ids], [None, *beginning.prompt_logprobs, *rows]
                pieces = [*_pieces(self.tokenizer, prompt, echo), *pieces]
            logprobs = self._logprobs(index, token_ids, pieces, rows)
        choice = {"index": index, "text": echo + text, "logprobs": logprobs, "finish_reason": finish_reason}
        if self.body.prompt_logprobs is not None and isinstance(beginning, RequestOutput):
            choice["prompt_logprobs"] = prompt_logprobs_of(self.tokenizer, beginning)
        return choice

    def _logprobs(self, index: int, token_ids: Sequence[int], pieces: Sequence[str], rows: Rows) -> dict[str, Any]:
        offsets = []
        for piece in pieces:
            offsets.append(self.offsets[index])
            self.offsets[index] += len(piece)
        return {
            "tokens": [token_key(self.tokenizer, token) for token in token_ids],
            "token_logprobs": [None if row is None else max(row[token], LEAST_LOGPROB) for token, row in zip(token_ids, rows, strict=True)],
            "top_logprobs": [None if row is None else self._top(row) for row in rows],
            "text_offset": offsets,
        }

    def _top(self, row: Mapping[int, float]) -> dict[str, float]:
        """By text; of two tokens with one text the likelier."""
        best: dict[str, float] = {}
        for token, value in row.items():
            key = token_key(self.tokenizer, token)
            best[key] = max(value, best.get(key, LEAST_LOGPROB))
        return best


def prompt_logprobs_of(tokenizer: Tokenizer, output: RequestOutput) -> list[Any] | None:
    """vLLM's `prompt_logprobs`: for every token of the prompt its own log-probability and the best ones, by token id."""
    if output.prompt_logprobs is None:
        return None
    found: list[Any] = [None]
    for row in output.prompt_logprobs:
        ranks = sorted(row.values(), reverse=True)
        found.append(
            {
                str(token): {
                    "logprob": max(value, LEAST_LOGPROB),
                    "rank": ranks.index(value) + 1,
                    "decoded_token": token_key(tokenizer, token),
                }
                for token, value in row.items()
            }
        )
    return found


def _prompt_of(beginning: Any) -> Sequence[int]:
    """The prompt's tokens of an output or a request."""
    if isinstance(beginning, RequestOutput):
        return beginning.prompt_token_ids
    tokens: Sequence[int] = beginning.token_ids[: beginning.num_prompt_tokens]
    return tokens


def _pieces(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[str]:
    """The text of each prompt token; together they are as long as `text`."""
    ends = [min(len(tokenizer.decode(token_ids[: at + 1]).rstrip("\ufffd")), len(text)) for at in range(len(token_ids))]
    ends = [*ends[:-1], len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _mean_logprob(output: RequestOutput) -> float:
    rows = output.logprobs or []
    return sum(row[token] for token, row in zip(output.token_ids, rows, strict=False)) / max(1, len(rows))


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    """The prompts, each a text or token ids."""
    prompt: Any = body.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return list(prompt) if several else [prompt]


def _encode(llm: LLM, prompts: Sequence[str | list[int]], suffix: str | None) -> list[list[int]]:
    """Token ids of each prompt; an empty text is the start of any. Raises ApiError (400) for a suffix without tokens for it."""
    tokenizer = llm.tokenizer
    if suffix:
        return [fill_in_prompt(tokenizer, prompt if isinstance(prompt, str) else tokenizer.decode(prompt), suffix) for prompt in prompts]
    return [(tokenizer.encode(prompt) or _start_of_text(llm)) if isinstance(prompt, str) else prompt for prompt in prompts]


def _start_of_text(llm: LLM) -> list[int]:
    start = llm.tokenizer.special_id(llm.tokenizer.special.get("bos_token", ""))
    return sorted(llm.eos_token_ids)[:1] if start is None else [start]


def _check(body: CompletionRequest) -> None:
    if body.best_of is not None and body.best_of < (body.n or 1):
        raise ApiError(400, "best_of is at least n", param="best_of")
    if body.best_of is not None and body.best_of > (body.n or 1) and body.stream:
        raise ApiError(400, "best_of cannot be streamed: the best answer is known in the end", param="best_of")
    if body.max_tokens == 0 and (not body.echo or body.stream):
        raise ApiError(400, "max_tokens 0 needs echo: true, and cannot be streamed", param="max_tokens")
    if body.prompt_logprobs is not None and body.stream:
        raise ApiError(400, "prompt_logprobs cannot be streamed", param="prompt_logprobs")


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several texts."""
    server: Server = request.app.state.server
    server.check_model(body.model)
    _check(body)
    llm, prompts = server.llm, _prompts(body)
    encoded = await asyncio.to_thread(_encode, llm, prompts, body.suffix)
    echoes = [prompt if isinstance(prompt, str) else llm.tokenizer.decode(prompt) for prompt in prompts] if body.echo else []
    jobs = [(token_ids, _params(server, body, len(token_ids))) for token_ids in encoded]
    return await respond(server, request, body, CompletionFormatter(llm.tokenizer, body, echoes), jobs)


def _params(server: Server, body: CompletionRequest, num_prompt_tokens: int) -> SamplingParams:
    """The engine's parameters for one prompt."""
    max_tokens = room_for(server, num_prompt_tokens, None if body.max_tokens is None else max(1, body.max_tokens), DEFAULT_MAX_TOKENS)
    num_drawn = body.best_of or body.n or 1
    logprobs = 0 if body.logprobs is None and num_drawn > (body.n or 1) else body.logprobs
    params = replace(sampling_params(body, server.llm, max_tokens, logprobs), n=num_drawn)
    if body.echo and body.logprobs is not None:
        params = replace(params, prompt_logprobs=max(body.logprobs, body.prompt_logprobs or 0))
    if body.suffix:
        params = replace(params, stop_token_ids=(*params.stop_token_ids, *fill_in_ends(server.llm.tokenizer)))
    return params
