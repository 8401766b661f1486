"""Requests to a server in this process, and what an answer or a refusal of it must look like."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.testclient import TestClient

HELLO = [{"role": "user", "content": "abc abc abc"}]


def ask(client: TestClient, **fields):
    return client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 20, "temperature": 0, **fields})


def complete(client: TestClient, **fields):
    return client.post("/v1/completions", json={"prompt": "abc abc", "temperature": 0, **fields})


def chunks(response) -> list[dict]:
    """The data of a stream, whose last one is [DONE]."""
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def refusal(response, status: int = 400) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "/work" not in response.text
    assert "Traceback" not in response.text
    return error


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    """A raw connection to http://HOST:PORT."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        yield raw
