"""POST /v1/completions: continue a raw text, without the chat format."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outpace.models.tokenizer import Tokenizer
from outpace.outputs import RequestOutput, StreamPiece
from outpace.server.api.generation import ResponseFormatter, Server, respond, room_for, sampling_params
from outpace.server.api.protocol import CompletionRequest
from outpace.server.api.trace import token_text
from outpace.server.api_errors import ApiError

router = APIRouter()
DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionFormatter(ResponseFormatter):
    """Answers as texts. `echoes` are the texts of the prompts, which are put in front of their answers."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, num_top: int | None, echoes: Sequence[str], count: int):
        self.tokenizer, self.num_top, self.echoes, self.count = tokenizer, num_top, echoes, count
        self.offsets: dict[int, int] = defaultdict(int)  # choice -> length of the text so far

    def choice(self, index: int, output: RequestOutput) -> dict[str, Any]:
        return self._choice(index, output.text, output.token_ids, output.pieces, output.logprobs, output.finish_reason, True)

    def delta(self, index: int, piece: StreamPiece, is_first: bool) -> dict[str, Any]:
        return self._choice(index, piece.text, piece.token_ids, piece.pieces, piece.logprobs, piece.finish_reason, is_first)

    def _choice(
        self,
        index: int,
        text: str,
        token_ids: Sequence[int],
        pieces: Sequence[str],
        rows: Sequence[Mapping[int, float]] | None,
        finish_reason: str | None,
        is_first: bool,
    ) -> dict[str, Any]:
        logprobs = None if self.num_top is None or rows is None else self._logprobs(index, token_ids, pieces, rows)
        echo = self.echoes[index // self.count] if self.echoes and is_first else ""
        return {"index": index, "text": echo + text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, index: int, token_ids: Sequence[int], pieces: Sequence[str], rows: Sequence[Mapping[int, float]]) -> dict[str, Any]:
        offsets = []
        for piece in pieces:
            offsets.append(self.offsets[index])
            self.offsets[index] += len(piece)
        return {
            "tokens": [token_text(self.tokenizer, token) for token in token_ids],
            "token_logprobs": [max(row[token], -9999.0) for token, row in zip(token_ids, rows, strict=True)],
            "top_logprobs": [{token_text(self.tokenizer, token): max(value, -9999.0) for token, value in row.items()} for row in rows],
            "text_offset": offsets,
        }


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    """The prompts, each a text or token ids."""
    prompt: Any = body.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return list(prompt) if several else [prompt]


def _encode(tokenizer: Tokenizer, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    return [tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def _check(body: CompletionRequest) -> None:
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(400, "best_of is supported only if it equals n", param="best_of")
    if body.echo and body.logprobs is not None:
        raise ApiError(400, "echo with logprobs is not supported: log-probabilities of prompts are not computed", param="echo")


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several texts."""
    server: Server = request.app.state.server
    server.check_model(body.model)
    _check(body)
    prompts, tokenizer = _prompts(body), server.llm.tokenizer
    encoded = await asyncio.to_thread(_encode, tokenizer, prompts)
    echoes = [prompt if isinstance(prompt, str) else tokenizer.decode(prompt) for prompt in prompts] if body.echo else []
    jobs = []
    for token_ids in encoded:
        max_tokens = room_for(server, len(token_ids), body.max_tokens, DEFAULT_MAX_TOKENS)
        jobs.append((token_ids, sampling_params(body, server.llm, max_tokens, body.logprobs)))
    return await respond(server, request, body, CompletionFormatter(tokenizer, body.logprobs, echoes, body.n or 1), jobs)
