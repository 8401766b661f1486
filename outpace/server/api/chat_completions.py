"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outpace.models.tokenizer import Tokenizer
from outpace.outputs import RequestOutput, StreamPiece
from outpace.params import SamplingParams
from outpace.server.api.chat_messages import as_messages, continues_last
from outpace.server.api.completions import prompt_logprobs_of
from outpace.server.api.generation import ResponseFormatter, Server, respond, room_for, sampling_params
from outpace.server.api.protocol import ChatRequest
from outpace.server.api.structured import answer_schema, build_grammar, check_grammar
from outpace.server.api.tolerance import TolerantRoute
from outpace.server.api.tools.call_reader import CallPart, CallReader
from outpace.server.api.tools.tool_choice import CallPlan, plan_calls, shown_tools
from outpace.server.api_errors import ApiError

router = APIRouter(route_class=TolerantRoute)
OWN_VARIABLES = {"messages", "tools", "documents", "add_generation_prompt"}  # of chat templates
LEAST_LOGPROB = -9999.0  # OpenAI's value for "impossible"


class ChatFormatter(ResponseFormatter):
    """Answers as messages of the assistant. With `calls` they are read for calls of functions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, num_top: int | None, calls: CallPlan | None = None):
        self.tokenizer, self.num_top, self.calls = tokenizer, num_top, calls
        self.readers: dict[int, CallReader] = {}  # of a stream's answers

    def choice(self, index: int, output: RequestOutput) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": output.text, "refusal": None}
        reason = output.finish_reason
        if self.calls is not None:
            reader = self.calls.reader()
            text, parts = reader.feed(output.text)
            message["content"] = text + reader.finish()
            if parts:
                message |= {"content": message["content"].rstrip() or None, "tool_calls": whole_calls(parts)}
            reason = self._finish_reason(reader, reason)
        logprobs = self._logprobs(output.token_ids, output.logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def extra(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        if outputs[0].prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": prompt_logprobs_of(self.tokenizer, outputs[0])}

    def delta(self, index: int, piece: StreamPiece, is_first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant", "content": None} if is_first else {}
        reason = piece.finish_reason
        if self.calls is None:
            delta["content"] = piece.text
        else:
            reader = self.readers.setdefault(index, self.calls.reader())
            text, parts = reader.feed(piece.text)
            if reason is not None:
                text += reader.finish()
                reason = self._finish_reason(reader, reason)
            if text:
                delta["content"] = text
            if parts:
                delta["tool_calls"] = [_call_delta(part) for part in parts]
        return {"index": index, "delta": delta, "logprobs": self._logprobs(piece.token_ids, piece.logprobs), "finish_reason": reason}

    def _finish_reason(self, reader: CallReader, reason: str) -> str:
        """OpenAI's: "tool_calls" if there are complete calls, "stop" if the client named the function. A call that a stop string has cut
        is incomplete, as one cut by the length is."""
        if reader.is_open:
            return "length"
        has_calls = reader.num_calls > 0 and self.calls is not None and not self.calls.is_named
        return "tool_calls" if reason == "stop" and has_calls else reason

    def _logprobs(self, token_ids: Sequence[int], rows: Sequence[Mapping[int, float]] | None) -> dict[str, Any] | None:
        if self.num_top is None or rows is None:
            return None
        content = []
        for token, row in zip(token_ids, rows, strict=True):
            best = sorted(row.items(), key=lambda item: -item[1])[: self.num_top]
            content.append({**self._token(token, row[token]), "top_logprobs": [self._token(*item) for item in best]})
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        shown = {"token": self.tokenizer.token_text(token), "logprob": max(logprob, LEAST_LOGPROB)}
        return {**shown, "bytes": list(self.tokenizer.token_bytes(token))}


def whole_calls(parts: Sequence[CallPart]) -> list[dict[str, Any]]:
    """The calls of a whole answer."""
    calls = []
    for start in (part for part in parts if part.name is not None):
        arguments = "".join(part.arguments for part in parts if part.index == start.index)
        calls.append({"id": start.id, "type": "function", "function": {"name": start.name, "arguments": arguments}})
    return calls


def _call_delta(part: CallPart) -> dict[str, Any]:
    function = {"arguments": part.arguments}
    if part.name is None:
        return {"index": part.index, "function": function}
    return {"index": part.index, "id": part.id, "type": "function", "function": {"name": part.name, **function}}


def _max_tokens(body: ChatRequest) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


@dataclass(frozen=True)
class PreparedChat:
    """A chat request ready for the engine."""

    token_ids: list[int]
    params: SamplingParams
    calls: CallPlan | None
    num_top: int | None


async def prepare_chat(server: Server, body: ChatRequest) -> PreparedChat:
    """Check a chat request and encode it. Raises ApiError and BadInputError."""
    server.check_model(body.model)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if body.prompt_logprobs is not None and body.stream:
        raise ApiError(400, "prompt_logprobs cannot be streamed", param="prompt_logprobs")
    num_top = (body.top_logprobs or 0) if body.logprobs else None
    tokenizer = server.llm.tokenizer
    tools, form = shown_tools(body, tokenizer.has_tools), build_grammar(body.response_format)
    await check_grammar(server.llm.grammars, form, "response_format")
    calls = None if tools is None else await plan_calls(server.llm, body, answer_schema(form))
    token_ids = await asyncio.to_thread(_encode, tokenizer, body, tools)
    max_tokens = room_for(server, len(token_ids), _max_tokens(body), server.settings.default_max_tokens)
    params = sampling_params(body, server.llm, max_tokens, num_top, form if calls is None else calls.grammar)
    if calls is not None and calls.shows_special:
        params = replace(params, skip_special_tokens=False)
    return PreparedChat(token_ids, params, calls, num_top)


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    server: Server = request.app.state.server
    chat = await prepare_chat(server, body)
    prediction = await _prediction(server, body)
    formatter = ChatFormatter(server.llm.tokenizer, chat.num_top, chat.calls)
    return await respond(server, request, body, formatter, [(chat.token_ids, chat.params)], prediction)


def _encode(tokenizer: Tokenizer, body: ChatRequest, tools: list[dict[str, Any]] | None) -> list[int]:
    """The prompt. Raises ApiError (400)."""
    is_continued = continues_last(body.messages, body.continue_final_message, body.add_generation_prompt)
    messages = as_messages(tokenizer, body.messages)
    for name in body.chat_template_kwargs or ():
        if name in OWN_VARIABLES or name.endswith("_token"):
            raise ApiError(400, f"{name} is the server's own variable of the chat template", param=f"chat_template_kwargs.{name}")
    return tokenizer.encode_chat(messages, tools, body.add_generation_prompt is not False, is_continued, body.chat_template_kwargs)


async def _prediction(server: Server, body: ChatRequest) -> list[int] | None:
    """The tokens of the prediction, which may be as long as the model's context. Raises ApiError (400)."""
    if body.prediction is None:
        return None
    token_ids = await asyncio.to_thread(server.llm.tokenizer.encode, body.prediction.text, False)
    if len(token_ids) > server.llm.engine.max_len:
        message = f"the prediction has {len(token_ids)} tokens; at most {server.llm.engine.max_len} fit into an answer"
        raise ApiError(400, message, param="prediction")
    return token_ids
