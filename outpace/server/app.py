"""The ASGI application that serves one LLM."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

from outpace import __version__
from outpace.config import SpeculativeConfig
from outpace.controller.factory import with_prediction
from outpace.llm import LLM
from outpace.server import api_errors as errors
from outpace.server.api import chat_completions as chat
from outpace.server.api import completions, info
from outpace.server.api.generation import Server
from outpace.server.api.responses import response_endpoint as responses
from outpace.server.api.responses.response_store import ResponseStore
from outpace.server.auth import AuthMiddleware, HostMiddleware, Keys
from outpace.server.limits import BodyMiddleware
from outpace.server.middleware import EXPOSED_HEADERS, AnswerMiddleware, FaultMiddleware
from outpace.server.paths import PathMiddleware
from outpace.server.policy import Policy
from outpace.server.prometheus import ServerMetrics
from outpace.server.settings import ServerSettings
from outpace.server.worker import Worker

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": errors.ErrorAnswer, "description": text}
    for status, text in {
        400: "A field is wrong, or asks for something that is not supported.",
        401: "No valid API key.",
        403: "The request names another host than this server.",
        404: "There is no such model.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "The body is compressed with something other than gzip.",
        422: "Not used: wrong fields get 400.",
        429: "The queue is full; Retry-After says when to try again.",
        500: "The request failed inside the server.",
        503: "The server is shutting down.",
        504: "The request took too long.",
    }.items()
}


class _RevalidatedFiles(StaticFiles):
    """Files that browsers revalidate each time (304 if unchanged), so that a page never runs scripts of another version."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(llm: LLM, settings: ServerSettings | None = None) -> FastAPI:
    """An application that serves `llm`, to be mounted (`app.mount("/llm", create_app(llm))`) or given to an ASGI server.

    The engine's thread starts with the first request and ends with the application's lifespan, or with the process if there is none. The
    LLM may still be called directly; such calls share the forward passes of the server's requests.

    The costs that `auto` needs are measured here (seconds, once per machine and model), so that no request waits for them. A model without
    a fingerprint would be measured at every start; for such a model requests may name `auto` only after `llm.strategy("auto")`.
    """
    settings = settings or ServerSettings()
    if llm.target.fingerprint:
        _ = llm.strategies.costs
    llm.strategy(None, has_prediction=True)  # built before the first request waits for it
    metrics = ServerMetrics(llm.engine, llm.strategies.draft_models)
    worker = Worker(llm, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(title="outpace", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = Server(llm, settings, worker, metrics, _policy(llm, settings))
    app.state.started_at = int(time.time())
    errors.install(app)
    generating = [Depends(worker.check_room_for_one)]
    app.state.responses = ResponseStore()
    for part in (chat, completions, responses):
        app.include_router(part.router, responses=REFUSALS, dependencies=generating)
    for router in (responses.kept, info.router):
        app.include_router(router, responses=REFUSALS)
    app.mount("/static", _RevalidatedFiles(directory=info.STATIC), name="static")
    _add_middleware(app, settings, metrics)
    return app


def use_drafter(app: FastAPI, config: SpeculativeConfig) -> None:
    """From now on requests that name no drafter use these settings; those that run keep theirs. The drafter is built first, so that none
    waits for it. Raises BadInputError for wrong settings, and then nothing has changed."""
    server: Server = app.state.server
    for settings in (config, with_prediction(config)):
        server.llm.strategies.of(settings, is_own=True)
    server.llm.speculative_config = config
    app.state.server = replace(server, policy=_policy(server.llm, server.settings))


def _policy(llm: LLM, settings: ServerSettings) -> Policy:
    return Policy(llm.speculative_config, settings.allowed_drafters, llm.strategies.is_measured, llm.target.base, settings.client_choice)


def _add_middleware(app: FastAPI, settings: ServerSettings, metrics: ServerMetrics) -> None:
    """From the inside out."""
    app.add_middleware(FaultMiddleware)
    app.add_middleware(BodyMiddleware, **settings.body_limits)
    if settings.api_keys:
        app.add_middleware(AuthMiddleware, keys=Keys(settings.api_keys))
    if settings.allowed_hosts is not None:
        app.add_middleware(HostMiddleware, names=settings.allowed_hosts)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(PathMiddleware)
    app.add_middleware(AnswerMiddleware, metrics=metrics)
