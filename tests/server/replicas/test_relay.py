"""A server in another process, without another process: what the client sees, whatever becomes of the replicas."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("fastapi")

from server_tools import is_empty, wait_for

from outpace.server import ServerSettings, create_app
from outpace.server.replicas import relay as module
from outpace.server.replicas.relay import ATTEMPTS, messages_of, plain_scope, read_body, relay


class Lost(Exception):
    """A replica is gone."""


STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
JSON = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}


def part(text: str, more: bool = True):
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


class Replicas:
    """Streams of messages, one for each attempt; an exception in one is raised there."""

    def __init__(self, *scripts):
        self.scripts, self.num_closed = list(scripts), 0

    async def open(self):
        try:
            for message in self.scripts.pop(0):
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            self.num_closed += 1


def run(replicas, monkeypatch):
    """What the client receives."""
    monkeypatch.setattr(module, "PAUSE", 0.0)
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(relay(replicas.open, send, (Lost,)))
    return sent


def test_an_answer_goes_through(monkeypatch):
    replicas = Replicas([STREAM, part("a"), part("b", False)])
    assert run(replicas, monkeypatch) == [STREAM, part("a"), part("b", False)]
    assert replicas.num_closed == 1


@pytest.mark.parametrize("before", [[], [STREAM], [JSON]])
def test_lost_before_the_first_part_the_request_goes_to_another_replica(monkeypatch, before):
    replicas = Replicas([*before, Lost()], [*before, Lost()], [STREAM, part("a", False)])
    assert run(replicas, monkeypatch) == [STREAM, part("a", False)]
    assert replicas.num_closed == 3


def test_lost_after_it_the_stream_ends_with_an_error_event(monkeypatch):
    sent = run(Replicas([STREAM, part("data: {}\n\n"), Lost()], [STREAM, part("never", False)]), monkeypatch)
    assert sent[:2] == [STREAM, part("data: {}\n\n")]
    event, done = (line.removeprefix("data: ") for line in sent[2]["body"].decode().split("\n\n") if line)
    assert json.loads(event)["error"]["code"] == "replica_lost"
    assert done == "[DONE]"
    assert not sent[2]["more_body"]
    assert len(sent) == 3


def test_an_answer_that_can_carry_no_event_breaks(monkeypatch):
    with pytest.raises(ConnectionError):
        run(Replicas([JSON, part("{"), Lost()]), monkeypatch)


def test_without_any_replica_the_client_is_told(monkeypatch):
    replicas = Replicas(*[[Lost()]] * ATTEMPTS)
    start, body = run(replicas, monkeypatch)
    assert start["status"] == 503
    assert json.loads(body["body"])["error"]["code"] == "unavailable"
    assert (b"retry-after", b"5") in start["headers"]


def test_a_request_that_nobody_takes_gets_504():
    sent, closed = [], []

    async def never():
        try:
            await asyncio.sleep(60)
            yield STREAM
        finally:
            closed.append(True)

    async def send(message):
        sent.append(message)

    asyncio.run(relay(never, send, (Lost,), patience=0.05))
    assert [message.get("status") for message in sent] == [504, None]
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_timeout"
    assert closed == [True]


def test_an_answer_that_has_begun_has_its_time():
    sent = []

    async def slow():
        yield STREAM
        await asyncio.sleep(0.1)
        yield part("a", False)

    async def send(message):
        sent.append(message)

    asyncio.run(relay(slow, send, (Lost,), patience=0.05))
    assert sent == [STREAM, part("a", False)]


def test_other_faults_are_not_hidden(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run(Replicas([STREAM, ZeroDivisionError()]), monkeypatch)


# ---- the server as an iteration of messages


def scope_of(path: str, method: str = "POST"):
    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    whole = {"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path, "raw_path": path.encode()}
    return plain_scope({**whole, "root_path": "", "query_string": b"", "headers": headers, "app": object(), "client": ("127.0.0.1", 1)})


def body_of(stream: bool, max_tokens: int = 30):
    messages = [{"role": "user", "content": "abc"}]
    return json.dumps({"messages": messages, "stream": stream, "max_tokens": max_tokens, "temperature": 0}).encode()


def ask_over_http(client):
    return client.post("/v1/chat/completions", content=body_of(False), headers={"content-type": "application/json"})


def test_the_server_answers_as_over_http(make_toy):
    from fastapi.testclient import TestClient

    llm = make_toy()
    app = create_app(llm)

    async def ask(stream):
        return [message async for message in messages_of(app, scope_of("/v1/chat/completions"), body_of(stream))]

    def texts(data: bytes) -> str:
        chunks = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])

    with TestClient(app) as client:
        want = ask_over_http(client).json()["choices"][0]["message"]["content"]
    app = create_app(llm)
    start, whole = asyncio.run(ask(False))[:2]
    assert start["status"] == 200
    assert json.loads(whole["body"])["choices"][0]["message"]["content"] == want
    app = create_app(llm)
    _, *parts = asyncio.run(ask(True))
    assert len(parts) > 3
    assert texts(b"".join(message["body"] for message in parts)) == want


def test_closed_early_the_request_is_freed(make_toy):
    llm = make_toy()
    app = create_app(llm)

    async def leave():
        stream = messages_of(app, scope_of("/v1/chat/completions"), body_of(True, 380))
        async for message in stream:
            if message["type"] == "http.response.body":
                break
        await stream.aclose()

    asyncio.run(leave())
    wait_for(lambda: is_empty(llm))
    app.state.server.worker.stop()


def test_an_application_that_fails_raises():
    async def app(scope, receive, send):
        raise ZeroDivisionError

    async def read():
        return [message async for message in messages_of(app, scope_of("/"), b"")]

    with pytest.raises(ZeroDivisionError):
        asyncio.run(read())


def test_bodies_arrive_in_parts():
    def receive_of(*messages):
        left = list(messages)

        async def receive():
            return left.pop(0)

        return receive

    chunks = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c", "more_body": False}]
    assert asyncio.run(read_body(receive_of(*chunks))) == b"abc"
    with pytest.raises(ConnectionError):
        asyncio.run(read_body(receive_of(chunks[0], {"type": "http.disconnect"})))


def test_a_packed_body_is_unpacked_before_its_way_is_chosen():
    """As the gateway does it: the application behind BodyMiddleware gets the plain body and headers."""
    import gzip

    from outpace.server.limits import BodyMiddleware

    seen = []

    async def app(scope, receive, send):
        seen.append((await read_body(receive), dict(scope["headers"])))

    async def receive():
        return {"type": "http.request", "body": gzip.compress(body_of(False)), "more_body": False}

    scope = scope_of("/v1/chat/completions")
    scope["headers"] = [*scope["headers"], (b"content-encoding", b"gzip")]
    asyncio.run(BodyMiddleware(app, **ServerSettings().body_limits)(scope, receive, None))
    body, headers = seen[0]
    assert body == body_of(False)
    assert b"content-encoding" not in headers


def test_another_drafter_for_new_requests(make_toy):
    from fastapi.testclient import TestClient

    from outpace.config import SpeculativeConfig
    from outpace.errors import BadInputError
    from outpace.server.app import use_drafter

    app = create_app(make_toy("prompt_lookup"))
    with TestClient(app) as client:

        def drafter():
            return ask_over_http(client).json()["speculative"]["drafter"]

        assert drafter() == "prompt_lookup"
        use_drafter(app, SpeculativeConfig("suffix"))
        assert drafter() == "suffix"
        with pytest.raises(BadInputError):
            use_drafter(app, SpeculativeConfig("suffix:no_such_option=1"))
        assert drafter() == "suffix"
