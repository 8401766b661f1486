"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outpace.llm import RequestOutput, StreamPiece
from outpace.server.answers import Form, Server, respond, room_for, sampling_params
from outpace.server.errors import ApiError
from outpace.server.protocol import ChatRequest, Message
from outpace.server.structured import build_grammar
from outpace.server.trace import token_text
from outpace.tokenizer import Tokenizer

router = APIRouter()
LEAST_LOGPROB = -9999.0  # OpenAI's value for "impossible"


class ChatForm(Form):
    """Answers as messages of the assistant."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, num_top: int | None):
        self.tokenizer, self.num_top = tokenizer, num_top

    def choice(self, index: int, output: RequestOutput) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": output.text, "refusal": None},
            "logprobs": self._logprobs(output.token_ids, output.logprobs),
            "finish_reason": output.finish_reason,
        }

    def delta(self, index: int, piece: StreamPiece, is_first: bool) -> dict[str, Any]:
        delta = {"role": "assistant"} if is_first else {}
        logprobs = self._logprobs(piece.token_ids, piece.logprobs)
        return {"index": index, "delta": {**delta, "content": piece.text}, "logprobs": logprobs, "finish_reason": piece.finish_reason}

    def _logprobs(self, token_ids: Sequence[int], rows: Sequence[Mapping[int, float]] | None) -> dict[str, Any] | None:
        if self.num_top is None or rows is None:
            return None
        content = []
        for token, row in zip(token_ids, rows, strict=True):
            best = sorted(row.items(), key=lambda item: -item[1])[: self.num_top]
            content.append({**self._token(token, row[token]), "top_logprobs": [self._token(*item) for item in best]})
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        shown = {"token": token_text(self.tokenizer, token), "logprob": max(logprob, LEAST_LOGPROB)}
        return {**shown, "bytes": list(self.tokenizer.token_bytes(token))}


def as_messages(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as chat templates take it. Raises ApiError (400) for what the model's template would drop."""
    template = tokenizer.chat_template or ""
    found = []
    for number, message in enumerate(messages):
        if message.content is None and not message.tool_calls:
            raise ApiError(400, "a message needs a content", param=f"messages.{number}.content")
        parts = message.content or ""
        text = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
        plain: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": text}
        for key in ("name", "tool_calls", "tool_call_id"):
            if (value := getattr(message, key)) is not None:
                if not re.search(rf"message(\.|\[['\"]){key}\b", template):
                    raise ApiError(400, f"this model's chat format has no place for {key!r}", param=f"messages.{number}.{key}")
                plain[key] = value
        if message.role == "tool" and not tokenizer.has_tools:
            raise ApiError(400, "this model's chat format has no tools", param=f"messages.{number}.role")
        found.append(plain)
    return found


def _tools(body: ChatRequest, tokenizer: Tokenizer) -> list[dict[str, Any]] | None:
    if body.tool_choice is not None and not body.tools:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    if not body.tools or body.tool_choice == "none":
        return None
    if not tokenizer.has_tools:
        raise ApiError(400, "this model's chat format has no tools", param="tools", code="unsupported_field")
    return [tool.model_dump(exclude_unset=True) for tool in body.tools]


def _max_tokens(body: ChatRequest) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    server: Server = request.app.state.server
    server.check_model(body.model)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    num_top = (body.top_logprobs or 0) if body.logprobs else None
    grammar = build_grammar(body.response_format)
    tokenizer = server.llm.tokenizer
    messages, tools = as_messages(tokenizer, body.messages), _tools(body, tokenizer)
    token_ids = await asyncio.to_thread(tokenizer.encode_chat, messages, tools)
    max_tokens = room_for(server, len(token_ids), _max_tokens(body), server.settings.default_max_tokens)
    params = sampling_params(body, max_tokens, num_top, grammar)
    return await respond(server, request, body, ChatForm(tokenizer, num_top), [(token_ids, params)])
