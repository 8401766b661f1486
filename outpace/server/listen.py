"""Runs the application on a socket, and shuts it down in order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from outpace.errors import OutpaceError
from outpace.server.api_errors import ApiError
from outpace.server.settings import ServerSettings
from outpace.server.worker import Worker

logger = logging.getLogger("outpace")
LINGER = 5  # seconds that connections have to receive their last bytes
BACKLOG = 1024  # connections that may wait while the server starts
LONGEST_LIMIT = 1e6  # seconds; the kernel takes milliseconds in 32 bits


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to this address, before the model loads. Raises OutpaceError when that fails, and while another server there loads."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # else a second one may be bound here while none listens
    except (OSError, OverflowError) as error:
        raise OutpaceError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
    return bound


def _open(bound: socket.socket) -> None:
    """Let clients connect. Their connections get the flag of the socket, so that a server that starts anew need not wait for their ends."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.listen(BACKLOG)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Connection(H11Protocol):
    """Closes the connection when the head of a request does not arrive within `stall_timeout` seconds, and when the client takes nothing of
    an answer for as long as a request may last. (An idle connection between two requests is closed by uvicorn, a stalled body by
    `BodyMiddleware`.)"""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.stall_timeout: float = self.config.app.state.server.settings.stall_timeout  # type: ignore[union-attr]
        self.stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()
        self._limit_unread(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _limit_unread(self, connection: Any) -> None:
        """Let the kernel close the connection of a client that stopped reading. Linux only."""
        settings: ServerSettings = self.config.app.state.server.settings  # type: ignore[union-attr]
        limit = max(settings.stall_timeout, settings.request_timeout)
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):  # not a TCP connection
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1e3 * min(limit, LONGEST_LIMIT)))

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self.stall_timer is None:
            self.stall_timer = self.loop.call_later(self.stall_timeout, self.transport.close)

    def _stop_timer(self) -> None:
        if self.stall_timer is not None:
            self.stall_timer.cancel()
            self.stall_timer = None


class _Server(uvicorn.Server):
    """On the first SIGTERM or Ctrl-C new requests get 503 and running ones may finish; the second ends the process at once."""

    def __init__(self, config: uvicorn.Config, worker: Worker, patience: float):
        super().__init__(config)
        self.worker, self.patience = worker, patience
        self.drain_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.worker.is_draining:
            self.should_exit = self.force_exit = True
        self.worker.is_draining = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hang_up = asyncio.get_running_loop().call_later(LINGER, self._hang_up)
        await super().shutdown(sockets)
        hang_up.cancel()
        if self.force_exit:
            self._hang_up()
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=1)
            await self.lifespan.shutdown()

    def _hang_up(self) -> None:
        """Close all connections, so that their requests end as they do for clients that disconnect, instead of with a traceback."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

    async def on_tick(self, counter: int) -> bool:
        if self.worker.is_dead:
            return True
        if self.worker.is_draining:
            now = time.monotonic()
            if self.drain_until is None:
                self.drain_until = now + self.patience
                if num_running := len(self.worker.requests):
                    what = "1 request is" if num_running == 1 else f"{num_running} requests are"
                    logger.warning("shutting down: %s still running, for at most %g s", what, self.patience)
            elif now > self.drain_until:
                self.worker.fail_all(ApiError(503, "the server is shutting down", code="unavailable"))
            self.should_exit = self.should_exit or not self.worker.requests
        return await super().on_tick(counter)


def run(app: FastAPI, bound: socket.socket, patience: float = 30.0, access_log: bool = False) -> None:
    """Serve until a signal comes; running requests then have `patience` seconds. Raises OutpaceError when the engine has died."""
    worker: Worker = app.state.server.worker
    if access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    server = _Server(_config(app, access_log), worker, patience)
    _open(bound)
    server.run(sockets=[bound])
    if worker.is_dead:
        raise OutpaceError("the engine has stopped; the log says why")


def _config(app: FastAPI, access_log: bool = False) -> uvicorn.Config:
    options: dict[str, Any] = {"access_log": access_log, "log_config": None, "server_header": False}
    return uvicorn.Config(app, http=_Connection, timeout_graceful_shutdown=LINGER + 1, **options)


@contextmanager
def in_thread(app: FastAPI) -> Iterator[str]:
    """Serve from a thread of this process on a free local port; gives the address."""
    with bind("127.0.0.1", 0) as bound:
        server = uvicorn.Server(_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="outpace-server", daemon=True)
        _open(bound)
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
