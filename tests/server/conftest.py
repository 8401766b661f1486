"""A server on a toy model, for the tests of its endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def server(make_toy) -> Iterator[Any]:
    """A client of the server; `server.llm` is the LLM behind it, `server.twin` one to compare with."""
    from fastapi.testclient import TestClient
    from server_tools import is_empty

    from outpace.server import create_app

    llm = make_toy(toy={"seed": 1})
    with TestClient(create_app(llm)) as client:
        client.llm, client.twin = llm, make_toy()
        yield client
    assert is_empty(llm)
