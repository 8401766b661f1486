"""An ASGI application in another process: its messages as an iteration, and their way to the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outpace.server.api.wire import DONE, as_json
from outpace.server.api_errors import ApiError

logger = logging.getLogger("outpace")
ATTEMPTS = 5  # replicas that a request is given to, one after the other, until one begins to answer
PAUSE = 0.5  # seconds before the next attempt, so that the loss is known
PLAIN = ("type", "http_version", "method", "scheme", "path", "root_path", "query_string", "headers", "client", "server")


def plain_scope(scope: Scope) -> dict[str, Any]:
    """The part of a request's scope that can be sent to another process."""
    return {name: scope[name] for name in PLAIN if name in scope}


async def messages_of(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
    """Run an application on a request whose body is complete; gives what it sends. To close the iteration is the client's disconnect."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    is_gone = asyncio.Event()

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await is_gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app({**scope, "state": {}, "extensions": {}, "asgi": {"version": "3.0"}}, receive, sent.put)
        finally:
            sent.put_nowait(None)

    task = asyncio.ensure_future(run())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await task
    finally:
        is_gone.set()  # the application frees what the request holds, and ends
        await asyncio.gather(task, return_exceptions=True)


async def relay(
    open_stream: Callable[[], AsyncGenerator[Message, None]],
    send: Send,
    lost: tuple[type[BaseException], ...],
    patience: float | None = None,
) -> None:
    """Send a replica's answer to the client. A replica that is lost (one of the exceptions `lost`) before the first part of its answer is
    replaced by another one, and the client does not notice; after it, the answer ends with an error event. A request that no replica has
    taken after `patience` seconds gets 504."""
    deadline = None if patience is None else asyncio.get_running_loop().time() + patience
    for attempt in range(ATTEMPTS):
        start: Message | None = None
        has_begun = False
        stream = open_stream()
        try:
            async with asyncio.timeout_at(deadline) as limit:
                async for message in stream:
                    limit.reschedule(None)  # from now on the replica keeps the time
                    if message["type"] == "http.response.start":
                        start = message
                        continue
                    if start is not None and not has_begun:
                        has_begun = True
                        await send(start)
                    await send(message)
            return
        except TimeoutError:
            if has_begun:
                raise
            await refuse(ApiError(504, f"the request waited longer than {patience:g} s", code="request_timeout"), send)
            return
        except lost as error:
            logger.warning("a replica was lost (%s), attempt %d", type(error).__name__, attempt + 1)
            if has_begun:
                await _end(start or {}, send)
                return
        finally:
            await stream.aclose()
        await asyncio.sleep(PAUSE)
    await refuse(ApiError(503, "no replica could answer", code="unavailable", retry_after=5), send)


async def refuse(error: ApiError, send: Send) -> None:
    """Answer with an error."""
    await error.response()({"type": "http"}, _nothing, send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _end(start: Message, send: Send) -> None:
    """End a stream with an error event. Raises ConnectionError for an answer that cannot carry one."""
    kinds = [value for name, value in start.get("headers", ()) if name.lower() == b"content-type"]
    if not kinds or not kinds[0].startswith(b"text/event-stream"):
        raise ConnectionError("the replica was lost in the middle of an answer")
    error = ApiError(503, "the replica that gave this answer was lost", code="replica_lost")
    data = f"data: {as_json(error.body())}\n\ndata: {DONE}\n\n"
    await send({"type": "http.response.body", "body": data.encode(), "more_body": False})


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request. Raises ConnectionError when the client has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has gone")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
