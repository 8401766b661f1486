"""What every answer carries and counts, whatever produced it: its id, its status, and an error object in place of a fault."""

from __future__ import annotations

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outpace.server.api_errors import internal_error
from outpace.server.prometheus import ServerMetrics

logger = logging.getLogger("outpace")
REQUEST_ID = "x-request-id"
EXPOSED_HEADERS = (REQUEST_ID, "retry-after")  # what pages of other origins may read
CLIENT_GONE = 499  # nobody receives such an answer; the aborted request has been counted
_ID = re.compile(r"[!-~]{1,128}")


class AnswerMiddleware:
    """Gives every answer the id of its request, the client's own if it sent one, and counts the answers that are errors."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
                if message["status"] >= 400 and message["status"] != CLIENT_GONE:
                    self.metrics.errors.labels(str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)


class FaultMiddleware:
    """Turns a fault of the server into status 500; the log has the details under the request's id. It is the innermost one, so that this
    answer gets the headers of all others."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def noticed(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, noticed)
        except Exception:
            if scope["type"] != "http" or has_started:
                raise
            logger.exception("request %s failed", scope.get("state", {}).get("request_id", ""))
            await internal_error().response()(scope, receive, send)
