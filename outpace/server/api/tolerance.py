"""Unknown fields of requests: refused, or left out with or without a line in the log (`--unknown-fields`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Message

logger = logging.getLogger("outpace")


class TolerantRoute(APIRoute):
    """A route that leaves out unknown fields and reads the request again, if the server's settings say so."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def tolerant(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                mode = request.app.state.server.settings.unknown_fields
                names = [] if mode == "refuse" else drop_unknown(error)
                if not names:
                    raise
                if mode == "warn":
                    logger.warning("%s: fields without a meaning here were left out: %s", request.url.path, ", ".join(names))
                return await handle(_with_body(request, error.body))

        return tolerant


def drop_unknown(error: RequestValidationError) -> list[str]:
    """Remove from `error.body` the fields that it calls unknown; returns their paths."""
    found = []
    for fault in error.errors():
        if fault["type"] == "extra_forbidden":
            place, name, path = error.body, fault["loc"][-1], []
            for step in fault["loc"][1:-1]:  # names of types are between the keys
                if (isinstance(place, dict) and step in place) or (isinstance(place, list) and isinstance(step, int)):
                    place = place[step]
                    path.append(str(step))
            if isinstance(place, dict) and name in place:
                del place[name]
                found.append(".".join([*path, str(name)]))
    return found


def _with_body(request: Request, body: Any) -> Request:
    """The request with another body; its other messages are those of the client."""
    left: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        return left.pop() if left else await request.receive()

    return Request(request.scope, receive)
