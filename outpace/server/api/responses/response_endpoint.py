"""POST /v1/responses, and the responses that are kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outpace.outputs import RequestOutput
from outpace.server.api.chat_completions import PreparedChat, prepare_chat
from outpace.server.api.generation import Server, StartedRequest, collect, speculative_of, start, usage_of
from outpace.server.api.responses.response_fields import ResponseRequest
from outpace.server.api.responses.response_items import OutputWriter
from outpace.server.api.responses.response_store import ResponseStore
from outpace.server.api.tolerance import TolerantRoute
from outpace.server.api.wire import EventStream, as_json, json_response
from outpace.server.api_errors import ApiError

router = APIRouter(route_class=TolerantRoute)
kept = APIRouter()  # what answers at once


@dataclass(frozen=True)
class _Answering:
    """One response under way: the request, its conversation, and what the engine gives."""

    server: Server
    store: ResponseStore
    owner: str
    body: ResponseRequest
    history: list[dict[str, Any]]
    started: StartedRequest
    writer: OutputWriter
    response_id: str
    created_at: int

    def response(self, status: str, output: RequestOutput | None = None) -> dict[str, Any]:
        """The response object; `output` is there at the end."""
        body = self.body
        form = None if body.text is None or body.text.format is None else body.text.format.model_dump(by_alias=True, exclude_none=True)
        found: dict[str, Any] = {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.server.names[0],
            "output": self.writer.items if output is not None else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": form or {"type": "text"}},
            "tool_choice": "auto" if body.tool_choice is None else body.model_dump(include={"tool_choice"})["tool_choice"],
            "tools": [{"strict": None, **tool.model_dump(exclude_none=True)} for tool in body.tools or ()],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }
        if output is not None:
            found |= {"usage": _usage(output), "speculative": speculative_of([output], self.started.speculation_request)}
        return found

    def finished(self, output: RequestOutput) -> dict[str, Any]:
        """The whole response, which is now kept."""
        is_cut = output.finish_reason == "length" or any(item["status"] == "incomplete" for item in self.writer.items)
        response = self.response("incomplete" if is_cut else "completed", output)
        if self.body.store is not False:
            self.store.add(self.owner, response, [*self.history, *self.body.messages(), self.writer.as_chat()])
        return response

    async def lines(self) -> AsyncIterator[str]:
        """The data of each server-sent event."""
        number = 0
        try:
            async for event in self.events():
                yield as_json({**event, "sequence_number": number})
                number += 1
        except ApiError as error:
            fault = error.body()["error"]
            yield as_json({"type": "error", "code": fault["code"], "message": fault["message"], "param": None, "sequence_number": number})

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """All events. Raises ApiError when the request fails."""
        yield {"type": "response.created", "response": self.response("in_progress")}
        yield {"type": "response.in_progress", "response": self.response("in_progress")}
        async for event in self.started.handle.events():
            for found in self.writer.feed(event.piece.text):
                yield found
            if event.piece.output is not None:
                for found in self.writer.finish():
                    yield found
                response = self.finished(event.piece.output)
                yield {"type": f"response.{response['status']}", "response": response}


@router.post("/v1/responses")
async def create_response(body: ResponseRequest, request: Request) -> Response:
    """Answer an input, perhaps as the continuation of an earlier response."""
    server: Server = request.app.state.server
    store: ResponseStore = request.app.state.responses
    owner = getattr(request.state, "cache_salt", "")
    history = _history(store, owner, body.previous_response_id)
    chat = body.as_chat(history)
    prepared: PreparedChat = await prepare_chat(server, chat)
    started = await start(server, request, chat, [(prepared.token_ids, prepared.params)], None)
    writer = OutputWriter(None if prepared.calls is None else prepared.calls.reader())
    answer = _Answering(server, store, owner, body, history, started, writer, store.new_id(), int(time.time()))
    if body.stream:
        return EventStream(answer.lines(), started.handle.close)
    outputs = await collect(started.handle, request)
    if outputs is None:
        return Response(status_code=499)  # the client has gone
    for _ in (*writer.feed(outputs[0].text), *writer.finish()):
        pass
    return json_response(answer.finished(outputs[0]))


@kept.get("/v1/responses/{response_id}")
async def get_response(response_id: str, request: Request) -> Response:
    """A response that is kept."""
    found = request.app.state.responses.get(getattr(request.state, "cache_salt", ""), response_id)
    if found is None:
        raise _not_found(404, response_id, None)
    return json_response(found.body)


@kept.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, request: Request) -> Response:
    """Forget a response."""
    if not request.app.state.responses.remove(getattr(request.state, "cache_salt", ""), response_id):
        raise _not_found(404, response_id, None)
    return json_response({"id": response_id, "object": "response", "deleted": True})


def _history(store: ResponseStore, owner: str, response_id: str | None) -> list[dict[str, Any]]:
    """The conversation of an earlier response. Raises ApiError (400)."""
    if response_id is None:
        return []
    found = store.get(owner, response_id)
    if found is None:
        raise _not_found(400, response_id, "previous_response_id")
    return found.messages


def _not_found(status: int, response_id: str, param: str | None) -> ApiError:
    message = f"there is no response {response_id!r}: it was not stored, or the server has forgotten it (it keeps the latest in memory)"
    return ApiError(status, message, param=param, code="previous_response_not_found" if param else "response_not_found")


def _usage(output: RequestOutput) -> dict[str, Any]:
    """Token counts under the names of this API."""
    usage = usage_of([output], 1, False)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
