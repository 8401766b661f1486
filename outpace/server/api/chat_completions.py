"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outpace.models.tokenizer import Tokenizer
from outpace.outputs import RequestOutput, StreamPiece
from outpace.server.api.generation import ResponseFormatter, Server, respond, room_for, sampling_params
from outpace.server.api.protocol import ChatRequest, Message
from outpace.server.api.structured import build_grammar, check_grammar
from outpace.server.api.tools import ForcedCall, read_tools
from outpace.server.api.trace import token_text
from outpace.server.api_errors import ApiError

router = APIRouter()
LEAST_LOGPROB = -9999.0  # OpenAI's value for "impossible"


class ChatFormatter(ResponseFormatter):
    """Answers as messages of the assistant. With a `call` the answer is the arguments of that function call."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, num_top: int | None, call: ForcedCall | None = None):
        self.tokenizer, self.num_top, self.call = tokenizer, num_top, call

    def choice(self, index: int, output: RequestOutput) -> dict[str, Any]:
        content: dict[str, Any] = {"content": output.text}
        if self.call is not None:
            content = {"content": None, "tool_calls": [self.call.start(output.text)]}
        return {
            "index": index,
            "message": {"role": "assistant", **content, "refusal": None},
            "logprobs": self._logprobs(output.token_ids, output.logprobs),
            "finish_reason": self._finish_reason(output.finish_reason),
        }

    def delta(self, index: int, piece: StreamPiece, is_first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if is_first else {}
        if self.call is None:
            delta["content"] = piece.text
        else:
            call = self.call.start(piece.text) if is_first else {"function": {"arguments": piece.text}}
            delta |= {"content": None} if is_first else {}
            delta["tool_calls"] = [{"index": 0, **call}]
        logprobs = self._logprobs(piece.token_ids, piece.logprobs)
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": self._finish_reason(piece.finish_reason)}

    def _finish_reason(self, reason: str | None) -> str | None:
        """OpenAI's: "tool_calls" if the client required some call, "stop" if it named the function."""
        return "tool_calls" if reason == "stop" and self.call is not None and self.call.is_required else reason

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
    """The conversation in the form that chat templates expect. Raises ApiError (400) for fields that the model's template would drop."""
    template = tokenizer.chat_template or ""
    found = []
    for number, message in enumerate(messages):
        if message.content is None and not message.tool_calls:
            raise ApiError(400, "a message needs content", param=f"messages.{number}.content")
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
    tokenizer = server.llm.tokenizer
    messages, (tools, call) = as_messages(tokenizer, body.messages), read_tools(body, tokenizer.has_tools)
    if call is not None and body.response_format is not None and body.response_format.type != "text":
        raise ApiError(400, "an answer cannot be a function call and have a response_format", param="response_format")
    grammar, param = (build_grammar(body.response_format), "response_format") if call is None else (call.grammar, "tools")
    await check_grammar(server.llm.grammars, grammar, param)
    token_ids = await asyncio.to_thread(tokenizer.encode_chat, messages, tools)
    max_tokens = room_for(server, len(token_ids), _max_tokens(body), server.settings.default_max_tokens)
    params = sampling_params(body, max_tokens, num_top, grammar)
    prediction = await _prediction(server, body)
    return await respond(server, request, body, ChatFormatter(tokenizer, num_top, call), [(token_ids, params)], prediction)


async def _prediction(server: Server, body: ChatRequest) -> list[int] | None:
    """The tokens of the prediction, which may be as long as the model's context. Raises ApiError (400)."""
    if body.prediction is None:
        return None
    token_ids = await asyncio.to_thread(server.llm.tokenizer.encode, body.prediction.text, False)
    if len(token_ids) > server.llm.engine.max_len:
        message = f"the prediction has {len(token_ids)} tokens; at most {server.llm.engine.max_len} fit into an answer"
        raise ApiError(400, message, param="prediction")
    return token_ids
