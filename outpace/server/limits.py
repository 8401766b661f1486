"""Request bodies: their size, their compression, and how long a client may take to send them."""

from __future__ import annotations

import asyncio
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outpace.server.api_errors import BAD_BODY, ApiError

GZIP = ("gzip", "x-gzip")
GZIP_WINDOW = 31  # zlib's number for the gzip format


class BodyMiddleware:
    """Unpacks bodies compressed with gzip. Answers 413 to bodies above `max_bytes` (unpacked), 415 to other compressions, and 408 when
    nothing arrives for `stall_timeout` seconds or the body takes longer than `body_timeout` seconds."""

    def __init__(self, app: ASGIApp, max_bytes: int, stall_timeout: float, body_timeout: float):
        self.app, self.max_bytes, self.stall_timeout, self.body_timeout = app, max_bytes, stall_timeout, body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length, encoding = headers.get("content-length", ""), headers.get("content-encoding", "identity").strip().lower()
        if length.isdecimal() and int(length) > self.max_bytes:
            await _too_large(self.max_bytes).response()(scope, receive, send)
        elif encoding == "identity":
            await self.app(scope, _Body(self, receive).receive, send)
        elif encoding in GZIP:
            plain = [item for item in scope["headers"] if item[0] not in (b"content-encoding", b"content-length")]
            body = _Body(self, receive, zlib.decompressobj(GZIP_WINDOW))
            await self.app({**scope, "headers": plain}, body.receive, send)
        else:
            message = f"a body may be compressed with gzip, not with {encoding[:40]!r}"
            await ApiError(415, message, code="unsupported_encoding").response()(scope, receive, send)


@dataclass
class _Body:
    """One body as it arrives."""

    limits: BodyMiddleware
    source: Receive
    gzip: Any = None  # a decompressor
    num_bytes: int = 0
    is_complete: bool = False
    started_at: float = field(default_factory=time.monotonic)

    async def receive(self) -> Message:
        """The next message, unpacked. Raises ApiError."""
        if self.is_complete:
            return await self.source()  # waits for the client's disconnect, however long the answer takes
        message = await self._next()
        if message["type"] != "http.request":
            return message
        self.is_complete = not message.get("more_body", False)
        body = message.get("body", b"")
        if self.gzip is not None:
            body = self._unpack(body)
        self.num_bytes += len(body)
        if self.num_bytes > self.limits.max_bytes:
            raise _too_large(self.limits.max_bytes)
        return {**message, "body": body}

    async def _next(self) -> Message:
        left = self.started_at + self.limits.body_timeout - time.monotonic()
        try:
            return await asyncio.wait_for(self.source(), min(self.limits.stall_timeout, left))
        except TimeoutError as error:
            raise ApiError(408, "the body did not arrive in time", code="body_timeout", headers={"Connection": "close"}) from error

    def _unpack(self, packed: bytes) -> bytes:
        """The unpacked bytes, at most one more than may still come. Raises ApiError for a body that is not one gzip file."""
        try:
            body: bytes = self.gzip.decompress(packed, self.limits.max_bytes - self.num_bytes + 1)
        except zlib.error as error:
            raise ApiError(400, "the body is not in gzip format, as its Content-Encoding says", code=BAD_BODY) from error
        if (self.is_complete and not self.gzip.eof and not self.gzip.unconsumed_tail) or self.gzip.unused_data:
            raise ApiError(400, "the gzip body is incomplete, or something follows its end", code=BAD_BODY)
        return body


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body is too large; at most {max_bytes} bytes are accepted", code="body_too_large")
