"""The small endpoints: models, health, version, metrics, tokenize, drafters and the page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from outpace import __version__
from outpace.server.api.chat_messages import as_messages
from outpace.server.api.generation import Server
from outpace.server.api.protocol import DetokenizeRequest, TokenizeRequest
from outpace.server.api.tolerance import TolerantRoute
from outpace.server.api.wire import json_response
from outpace.server.api_errors import ApiError

router = APIRouter(route_class=TolerantRoute)
STATIC = Path(__file__).parents[1] / "static"
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _server(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


def _model(request: Request, name: str) -> dict[str, Any]:
    server, created = _server(request), request.app.state.started_at
    return {"id": name, "object": "model", "created": created, "owned_by": "outpace", "max_model_len": server.llm.engine.max_len}


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The model that this server runs, under each of its names; requests may also call it "default"."""
    return json_response({"object": "list", "data": [_model(request, name) for name in _server(request).names]})


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    """About the model of this name."""
    server = _server(request)
    server.check_model(name)
    return json_response(_model(request, name if name in server.names else server.names[0]))


@router.get("/health")
async def health(request: Request) -> Response:
    """200 while the server accepts requests."""
    _server(request).worker.check_health()
    return json_response({"status": "ok"})


@router.get("/version")
async def version() -> Response:
    """The version of outpace."""
    return json_response({"version": __version__})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters and histograms for Prometheus."""
    return Response(_server(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/outpace/drafters")
async def drafters(request: Request) -> Response:
    """The drafters that a request may name in `speculative`, with the options that it may set and their defaults."""
    return json_response(_server(request).policy.listing())


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """The tokens of a text or a conversation."""
    server = _server(request)
    server.check_model(body.model)
    tokenizer = server.llm.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt")
    token_ids: list[int]
    if body.messages is not None:
        token_ids = await asyncio.to_thread(tokenizer.encode_chat, as_messages(tokenizer, body.messages))
    else:
        token_ids = await asyncio.to_thread(tokenizer.encode, body.prompt or "", body.add_special_tokens)
    answer: dict[str, Any] = {"count": len(token_ids), "max_model_len": server.llm.engine.max_len, "tokens": token_ids}
    if body.return_token_strs:
        answer["token_strs"] = [tokenizer.token_text(token) for token in token_ids]
    return json_response(answer)


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of tokens."""
    server = _server(request)
    server.check_model(body.model)
    vocab_size = server.llm.target.capabilities.vocab_size
    if any(token >= vocab_size for token in body.tokens):
        raise ApiError(400, f"tokens has a token outside the vocabulary of {vocab_size}", param="tokens")
    return json_response({"prompt": server.llm.tokenizer.decode(body.tokens, body.skip_special_tokens)})


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The playground."""
    return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)
