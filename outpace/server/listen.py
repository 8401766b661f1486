"""Runs the application on a socket, and shuts it down in order."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from outpace.errors import OutpaceError
from outpace.server.api_errors import ApiError
from outpace.server.worker import Worker

logger = logging.getLogger("outpace")
LINGER = 5  # seconds that connections have to receive their last bytes
BACKLOG = 1024  # connections that may wait while the server starts


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to this address, before the model loads. Raises OutpaceError when that fails."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise OutpaceError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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

    async def on_tick(self, counter: int) -> bool:
        if self.worker.is_dead:
            return True
        if self.worker.is_draining:
            now = time.monotonic()
            if self.drain_until is None:
                self.drain_until = now + self.patience
                logger.warning(
                    "shutting down: %d requests are still running and have at most %g s", len(self.worker.requests), self.patience
                )
            elif now > self.drain_until:
                self.worker.fail_all(ApiError(503, "the server is shutting down", code="unavailable"))
            self.should_exit = self.should_exit or not self.worker.requests
        return await super().on_tick(counter)


def run(app: FastAPI, bound: socket.socket, patience: float = 30.0, access_log: bool = False) -> None:
    """Serve until a signal comes; running requests then have `patience` seconds. Raises OutpaceError when the engine has died."""
    worker: Worker = app.state.server.worker
    if access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    config = uvicorn.Config(app, log_config=None, access_log=access_log, timeout_graceful_shutdown=LINGER, server_header=False)
    server = _Server(config, worker, patience)
    server.run(sockets=[bound])
    if worker.is_dead:
        raise OutpaceError("the engine has stopped; the log says why")


@contextmanager
def in_thread(app: FastAPI) -> Iterator[str]:
    """Serve from a thread of this process on a free local port; gives the address."""
    with bind("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=LINGER))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="outpace-server", daemon=True)
        bound.listen(BACKLOG)
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
