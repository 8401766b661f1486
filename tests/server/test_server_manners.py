"""What clients, browsers and operators expect of any server: ids, compressed bodies, stalled clients, other host names, limits."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from http_tools import HELLO, ask, complete, connected, refusal
from server_tools import byte_llm, is_empty, slow_down, start_toy_server, wait_for

from outpace.config import EngineConfig
from outpace.errors import BadInputError
from outpace.server import ServerSettings, create_app
from outpace.server.listen import in_thread

PATH = "/v1/chat/completions"
BODY = {"messages": HELLO, "max_tokens": 20, "temperature": 0}


def metric(address: str, name: str) -> float:
    """The value of one line of /metrics; 0 without the line."""
    lines = [line for line in httpx.get(address + "/metrics").text.splitlines() if line.startswith(f"outpace:{name} ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


# ---- ids, other origins, keys


def test_every_answer_has_an_id(server):
    first, second = ask(server), ask(server)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(first.headers["x-request-id"]) > 20
    for own in ("my-id-7", "x" * 128):
        assert server.get("/health", headers={"X-Request-Id": own}).headers["x-request-id"] == own
    for strange in ("two words", "x" * 129, b"\xfc"):
        assert server.get("/health", headers={"X-Request-Id": strange}).headers["x-request-id"].startswith("req-")
    for answer in (server.get("/nothing"), ask(server, frobnicate=1), ask(server, stream=True)):
        assert answer.headers["x-request-id"]


def test_other_origins_may_read_the_headers(toy_llm, monkeypatch, caplog):
    settings = ServerSettings(cors_origins=("https://a.example",), api_keys=("k",))
    origin = {"Origin": "https://a.example", "Authorization": "Bearer k"}
    app = create_app(toy_llm, settings)
    with TestClient(app, headers=origin) as client:
        answers = [client.get("/v1/models"), client.get("/v1/models", headers={"Authorization": "Bearer no"})]
        monkeypatch.setattr(app.state.server.metrics, "text", lambda: 1 / 0)
        answers.append(client.get("/metrics", headers={"X-Request-Id": "the-broken-one"}))
    assert [answer.status_code for answer in answers] == [200, 401, 500]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert "x-request-id" in exposed
        assert "retry-after" in exposed
        assert answer.headers["x-request-id"]
    assert refusal(answers[2], 500)["code"] == "internal_error"
    assert "request the-broken-one failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_key_may_come_in_its_own_header(toy_llm):
    with TestClient(create_app(toy_llm, ServerSettings(api_keys=("k",)))) as client:
        assert client.get("/v1/models", headers={"X-Api-Key": "k"}).status_code == 200
        assert client.get("/v1/models", headers={"X-Api-Key": "k", "Authorization": "Bearer none"}).status_code == 200
        assert "needs an API key" in refusal(client.get("/v1/models"), 401)["message"]
        for wrong in ({"X-Api-Key": "no"}, {"X-Api-Key": ""}, {"Authorization": "k"}):
            assert "not valid here" in refusal(client.get("/v1/models", headers=wrong), 401)["message"]


# ---- host names


def test_other_host_names_are_refused(toy_llm):
    with TestClient(create_app(toy_llm, ServerSettings(allowed_hosts=("my.lan",)))) as client:

        def status(host: str) -> int:
            return client.get("/v1/models", headers={"Host": host}).status_code

        for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "10.1.2.3", "app.localhost", "LOCALHOST.", "my.lan:80"):
            assert status(host) == 200, host
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "my.lan.evil", ""):
            assert status(host) == 403, host
        error = refusal(client.post(PATH, json=BODY, headers={"Host": "evil.example"}), 403)
        assert "'evil.example'" in error["message"]
        assert "--allow-host" in error["message"]
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    with TestClient(create_app(toy_llm)) as client:  # an application that embeds the server has its own names
        assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 200


def test_a_request_without_a_host_is_no_browser(toy_llm):
    with in_thread(create_app(toy_llm, ServerSettings(allowed_hosts=()))) as address, connected(address) as raw:
        raw.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.request("GET", "/health", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 403


# ---- what is counted, and what waits for the engine


def test_refused_and_aborted_requests_are_counted(make_toy):
    llm = make_toy(engine=EngineConfig(max_num_seqs=2))
    slow_down(llm, 0.02)
    with in_thread(create_app(llm, ServerSettings(max_queue=1))) as address:
        for fields in ({"frobnicate": 1}, {"temperature": 9}):
            httpx.post(address + PATH, json={**BODY, **fields})
        httpx.get(address + "/nothing")
        assert (metric(address, 'http_errors_total{status="400"}'), metric(address, 'http_errors_total{status="404"}')) == (2, 1)
        for stream in (True, False):
            before = metric(address, 'request_success_total{finished_reason="abort"}')
            long = json.dumps({**BODY, "max_tokens": 300, "ignore_eos": True, "n": 2, "stream": stream}).encode()
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(long)}\r\n\r\n"
            with connected(address) as raw:
                raw.sendall(head.encode() + long)
                wait_for(lambda: len(llm.engine.scheduler.running) == 2)
            wait_for(lambda: is_empty(llm))
            assert metric(address, 'request_success_total{finished_reason="abort"}') - before == 2
        assert httpx.post(address + PATH, json={**BODY, "stream": True}).status_code == 200
        assert metric(address, 'request_success_total{finished_reason="abort"}') == 4  # a whole answer is no abort
    assert is_empty(llm)


def test_nobody_waits_for_the_engine_s_step_to_learn_the_status(make_toy):
    """A forward pass takes 1 s; the heads of a stream and a refusal come at once."""
    llm = make_toy(engine=EngineConfig(max_num_seqs=1))
    slow_down(llm, 1.0)
    with in_thread(create_app(llm, ServerSettings(max_queue=1))) as address, httpx.Client(timeout=30) as client:
        body = {**BODY, "max_tokens": 2, "stream": True, "speculative": False}
        client.post(address + PATH, json=body)  # the drafter is built now
        with client.stream("POST", address + PATH, json=body) as running:
            wait_for(lambda: llm.engine.scheduler.running)
            started = time.monotonic()
            with client.stream("POST", address + PATH, json=body) as waiting:
                assert waiting.status_code == 200
                assert client.post(address + PATH, json=body).status_code == 429
                assert client.post(address + PATH, json={**body, "logit_bias": {"999": 1}}).status_code == 429
                assert time.monotonic() - started < 0.5
                assert waiting.read().endswith(b"[DONE]\n\n")
            running.read()
        wait_for(lambda: is_empty(llm))
        started = time.monotonic()
        refusal(client.post(address + PATH, json={**body, "logit_bias": {"999": 1}}), 400)
        assert time.monotonic() - started < 0.5


# ---- what the operator allows


@pytest.mark.parametrize("choice", ["all", "lossless", "allowed"])
def test_the_operator_limits_what_requests_choose(make_toy, choice):
    llm = make_toy("suffix+recycling")
    settings = ServerSettings(client_choice=choice, allowed_drafters=("prompt_lookup:branches=2",))
    wishes: dict[str, Any] = {
        "lossy": {"verifier": "typical"},
        "exact": {"verifier": "exact"},
        "drafter": "blind",
        "number": {"num_draft_tokens": 3},
        "own": "suffix+recycling",
        "offered": {"method": "prompt_lookup:branches=2", "verifier": "exact"},
        "plain": False,
        "none": "none",
    }
    refused: set[str] = {"all": set(), "lossless": {"lossy"}, "allowed": {"lossy", "drafter", "number"}}[choice]
    with TestClient(create_app(llm, settings)) as client:
        for name, wish in wishes.items():
            answer = ask(client, speculative=wish)
            assert (answer.status_code, name) == (400 if name in refused else 200, name)
        if "lossy" in refused:
            assert "does not allow the verifier 'typical'" in refusal(ask(client, speculative=wishes["lossy"]))["message"]
        listed = {entry["name"]: entry["default"] for entry in client.get("/v1/outpace/drafters").json()}
    assert listed["suffix+recycling"] is True
    assert listed["prompt_lookup:branches=2"] is listed["none"] is False
    assert ("blind" in listed) == (choice != "allowed")


def test_a_server_that_was_started_lossy_stays_so(make_toy):
    llm = make_toy({"method": "suffix", "verifier": "typical"})
    with TestClient(create_app(llm, ServerSettings(client_choice="lossless"))) as client:
        assert ask(client).json()["speculative"]["verifier"] == "typical"
    with pytest.raises(BadInputError, match="client_choice must be one of all, lossless, allowed"):
        ServerSettings(client_choice="some")


# ---- messages


@pytest.mark.parametrize(
    ("prompt", "param", "words"),
    [
        ([-1], "prompt.0", "greater than or equal to 0"),
        ([1, 2, "a"], "prompt.2", "valid integer"),
        (["a", "b", 3], "prompt.2", "valid string"),
        ([[1], [2, -3]], "prompt.1.1", "greater than or equal to 0"),
        ([999], "prompt", "outside the vocabulary"),
    ],
)
def test_the_reading_that_fits_best_is_named(server, prompt, param, words):
    error = refusal(complete(server, prompt=prompt))
    assert words in error["message"]
    assert error["param"] == param


def test_other_media_are_said_to_be_unsupported(server):
    for kind, content, words in (
        ("image_url", {"image_url": {"url": "data:image/png;base64,AAAA"}}, "images are not supported"),
        ("input_audio", {"input_audio": {"data": "", "format": "wav"}}, "sounds are not supported"),
        ("file", {"file": {"file_id": "x"}}, "files are not supported"),
    ):
        parts = [{"type": "text", "text": "What is this?"}, {"type": kind, **content}]
        error = refusal(ask(server, messages=[{"role": "user", "content": parts}]))
        assert words in error["message"]
        assert error["param"].startswith("messages.0.content.1")
        assert error["code"] == "unsupported_content"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    ],
)
def test_a_schema_that_refers_to_itself_without_an_end_is_refused(monkeypatch, schema):
    with TestClient(create_app(byte_llm(monkeypatch))) as client:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        error = refusal(ask(client, response_format=form))
        assert error["param"] == "response_format"
        assert "may refer to itself without an end" in error["message"]


def test_a_schema_that_refers_to_itself_with_an_end_is_used(monkeypatch):
    link = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    with TestClient(create_app(byte_llm(monkeypatch))) as client:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"anyOf": [{"type": "null"}, link]}}}
        text = ask(client, response_format=form, max_tokens=60).json()["choices"][0]["message"]["content"]
        assert text == "null" or text.startswith('{"a": ')


# ---- the second signal


def test_a_second_sigterm_ends_at_once_and_without_a_traceback():
    process, address = start_toy_server(0.3, 60)
    with ThreadPoolExecutor(2) as pool:
        for stream in (True, False):
            pool.submit(httpx.post, address + PATH, json={**BODY, "max_tokens": 300, "ignore_eos": True, "stream": stream}, timeout=60)
        wait_for(lambda: "num_requests_running 2.0" in httpx.get(address + "/metrics").text)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait(10) == 0
    assert time.monotonic() - started < 5
    errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "Error" not in errors


def test_a_reader_that_stopped_reading_does_not_leave_a_traceback(monkeypatch):
    """Its connection is still open when the server has nothing more to do."""
    process, address = start_toy_server(0.001, 0.5)
    long = json.dumps(
        {**BODY, "max_tokens": 300, "ignore_eos": True, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 16}
    ).encode()
    with connected(address) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(long)}\r\n\r\n"
        raw.sendall(head.encode() + long)
        wait_for(lambda: "num_requests_running 16.0" in httpx.get(address + "/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()
