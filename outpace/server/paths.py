"""Paths as clients write them: doubled and trailing slashes, the API without `/v1`, and HEAD."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = "/v1"
ALIASES = re.compile(r"/(chat/completions|completions|responses|models|embeddings)(/.*)?")  # of paths below /v1


def plain_path(path: str) -> str:
    """The path as the routes have it."""
    path = re.sub(r"/{2,}", "/", path)
    path = path.rstrip("/") or "/"
    return VERSION + path if ALIASES.fullmatch(path) else path


class PathMiddleware:
    """Brings paths into the form of the routes, and answers HEAD as GET without the body."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        root = scope.get("root_path", "")
        path = root + plain_path(scope["path"].removeprefix(root))
        is_head = scope["method"] == "HEAD"
        scope = {**scope, "path": path, "raw_path": path.encode(), "method": "GET" if is_head else scope["method"]}

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app(scope, receive, without_body if is_head else send)
