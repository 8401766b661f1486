"""Request bodies: compressed, stalled, slow, too large."""

from __future__ import annotations

import gzip
import json
import socket
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from http_tools import HELLO, ask, connected, refusal
from server_tools import is_empty, slow_down, wait_for

from outpace.config import EngineConfig
from outpace.server import ServerSettings, create_app
from outpace.server.listen import in_thread

PATH = "/v1/chat/completions"
BODY = {"messages": HELLO, "max_tokens": 20, "temperature": 0}


def test_bodies_may_be_compressed_with_gzip(server):
    plain = json.dumps(BODY).encode()
    head = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = server.post(PATH, content=gzip.compress(plain), headers=head)
    assert answer.json()["choices"] == ask(server).json()["choices"]
    packed = gzip.compress(plain)
    for broken in (plain, packed[:-5], packed + b"more", b""):
        error = refusal(server.post(PATH, content=broken, headers=head))
        assert "gzip" in error["message"]
        assert error["param"] is None
    for encoding in ("br", "deflate", "zstd", "gzip, gzip"):
        error = refusal(server.post(PATH, content=plain, headers={**head, "Content-Encoding": encoding}), 415)
        assert encoding in error["message"]
    assert server.post(PATH, content=plain, headers={**head, "Content-Encoding": "identity"}).status_code == 200


def test_a_small_gzip_body_that_unpacks_to_a_large_one_is_refused(toy_llm):
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    head = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with TestClient(create_app(toy_llm, ServerSettings(max_body_bytes=100_000))) as client:
        assert refusal(client.post(PATH, content=bomb, headers=head), 413)["code"] == "body_too_large"
        fits = json.dumps(BODY).encode() + b" " * 90_000
        assert client.post(PATH, content=gzip.compress(fits), headers=head).status_code == 200


@pytest.mark.parametrize("is_second", [False, True], ids=["first", "second"])
@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"], ids=["nothing", "a line", "a head"]
)
def test_a_stalled_head_is_closed(toy_llm, sent, is_second):
    with in_thread(create_app(toy_llm, ServerSettings(stall_timeout=0.3))) as address, connected(address) as raw:
        if is_second:
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while b'"ok"' not in answer:
                answer += raw.recv(65536)
        started = time.monotonic()
        raw.sendall(sent)
        assert raw.recv(65536) == b""  # the server has closed the connection
        assert 0.2 < time.monotonic() - started < (8 if is_second and not sent else 3)  # an idle connection may be used again for 5 s


def test_a_stalled_body_is_closed_and_a_slow_one_is_not(toy_llm):
    plain = json.dumps(BODY).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(plain)}\r\n\r\n".encode()
    with in_thread(create_app(toy_llm, ServerSettings(stall_timeout=0.5))) as address:
        with connected(address) as raw:
            raw.sendall(head + plain[:10])
            answer = b""
            while part := raw.recv(65536):
                answer += part
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"the body did not arrive in time" in answer
        with connected(address) as raw:
            for place in range(0, len(plain), 20):  # altogether longer than the stall timeout
                raw.sendall((head if place == 0 else b"") + plain[place : place + 20])
                time.sleep(0.2)
            assert raw.recv(65536).startswith(b"HTTP/1.1 200")
    assert is_empty(toy_llm)


def test_a_body_in_drops_ends_at_the_time_limit(toy_llm):
    with in_thread(create_app(toy_llm, ServerSettings(stall_timeout=0.4, request_timeout=0.8))) as address, connected(address) as raw:
        raw.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode())
        started = time.monotonic()
        raw.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - started < 5:
            raw.sendall(b" ")
            try:
                answer = raw.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 2.5


def is_connected(address: str) -> bool:
    """Whether the server there has a connection, as the kernel sees it."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(local.endswith(port) and state == "01" for _, local, _, state, *_ in sockets)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_a_client_that_reads_nothing_is_hung_up_on(toy_llm):
    """It asks for more than the kernel's buffers hold, and stays."""
    with in_thread(create_app(toy_llm, ServerSettings(request_timeout=1.0, stall_timeout=1.0))) as address, connected(address) as raw:
        raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        assert is_connected(address)
        wait_for(lambda: not is_connected(address), 60)
        assert httpx.get(address + "/health").status_code == 200


def test_an_answer_may_take_longer_than_a_stall(make_toy):
    llm = make_toy(engine=EngineConfig(max_num_seqs=2))
    slow_down(llm, 0.05)
    with in_thread(create_app(llm, ServerSettings(stall_timeout=0.2))) as address:
        body = {**BODY, "speculative": False, "ignore_eos": True}
        assert httpx.post(address + PATH, json=body, timeout=20).json()["usage"]["completion_tokens"] == 20
