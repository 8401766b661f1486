"""The server under trouble: clients that disconnect, full queues, time limits, failing requests, shutdown."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import numpy as np
import pytest
from server_tools import is_empty, serving, slow_down, start_toy_server, wait_for

from outpace.async_llm import GenerationJob
from outpace.config import EngineConfig
from outpace.params import SamplingParams
from outpace.server import ServerSettings, create_app
from outpace.server.prometheus import ServerMetrics
from outpace.server.worker import Worker

BODY = {"messages": [{"role": "user", "content": "abc abc"}], "max_tokens": 300, "temperature": 1, "seed": 1, "ignore_eos": True}
PATH = "/v1/chat/completions"


@pytest.fixture
def slow(make_toy):
    """A toy with two slots whose forward pass takes 10 ms."""
    llm = make_toy(engine=EngineConfig(max_num_seqs=2))
    slow_down(llm, 0.01)
    return llm


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=20) as client:
        yield client


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slot(slow, stream):
    with serving(create_app(slow)) as address:
        host, port = address.removeprefix("http://").split(":")
        for _ in range(3):
            body = httpx.Request("POST", address + PATH, json={**BODY, "stream": stream, "n": 2})
            with socket.create_connection((host, int(port))) as raw:
                head = "".join(f"{name}: {value}\r\n" for name, value in body.headers.items())
                raw.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body.content)
                wait_for(lambda: len(slow.engine.scheduler.running) == 2)
            left = slow.engine.metrics.num_steps
            wait_for(lambda: is_empty(slow))
            assert slow.engine.metrics.num_steps - left <= 4  # the hang-up reaches the server, then at most one more step


def test_a_slow_reader_holds_nobody_up(slow, client):
    with (
        serving(create_app(slow)) as address,
        httpx.stream("POST", address + PATH, json={**BODY, "max_tokens": 100, "stream": True}, timeout=20) as reader,
    ):
        assert client.post(address + PATH, json={**BODY, "max_tokens": 5}).status_code == 200
        wait_for(lambda: is_empty(slow))  # the answer is complete although nobody has read it
        assert reader.read().endswith(b"data: [DONE]\n\n")


def test_a_full_queue_says_when_to_come_back(slow):
    with serving(create_app(slow, ServerSettings(max_queue=1))) as address, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(httpx.post, address + PATH, json={**BODY, "max_tokens": 60}, timeout=20) for _ in range(4)]
        statuses = sorted(answer.result().status_code for answer in answers)
        assert statuses == [200, 200, 200, 429]
        refused = next(answer.result() for answer in answers if answer.result().status_code == 429)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert httpx.post(address + PATH, json={**BODY, "n": 4}).status_code == 400  # could never run
    assert is_empty(slow)


def test_a_full_queue_is_full_for_one_key_only(slow, client):
    settings = ServerSettings(max_queue=1, api_keys=("a", "b"))
    with serving(create_app(slow, settings)) as address, ThreadPoolExecutor(8) as pool:

        def ask(key: str) -> int:
            return client.post(address + PATH, json={**BODY, "max_tokens": 40}, headers={"Authorization": f"Bearer {key}"}).status_code

        greedy = [pool.submit(ask, "a") for _ in range(5)]
        wait_for(lambda: len(slow.engine.scheduler.running) == 2)
        assert ask("b") == 200
        assert {answer.result() for answer in greedy} == {200, 429}


def test_tenants_take_turns(slow):
    """With one key's requests waiting in front, another key's first request still gets the next slot."""
    jobs = [slow.submit("abc", SamplingParams(max_tokens=4 + i), cache_salt="many") for i in range(6)]
    other = slow.submit("abc", SamplingParams(max_tokens=4), cache_salt="one")
    slow.step()
    assert [job.request.slot is not None for job in (*jobs, other)] == [True, *[False] * 5, True]
    while not other.is_done:
        slow.step()
    slow.step()
    assert jobs[1].request.slot is not None  # alone again, the first key has all the slots
    for job in [*jobs, other]:
        slow.abort(job)
    assert is_empty(slow)


@pytest.mark.parametrize("stream", [True, False])
def test_the_time_limit(slow, client, stream):
    with serving(create_app(slow, ServerSettings(request_timeout=0.2))) as address:
        started = time.monotonic()
        answer = client.post(address + PATH, json={**BODY, "stream": stream})
        assert 0.2 <= time.monotonic() - started < 2
        assert "longer than 0.2 s" in answer.text
        if stream:
            assert answer.text.endswith("data: [DONE]\n\n")
            assert '{"error":{' in answer.text
        else:
            assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout_error")
        wait_for(lambda: is_empty(slow))
        assert client.post(address + PATH, json={**BODY, "max_tokens": 3}).status_code == 200


def test_a_request_that_fails_touches_no_other(toy_llm):
    """A logits processor that raises ends its own request with 500; the text of another request stays the same."""

    def bad(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        if len(token_ids) > 20:
            raise RuntimeError("secret detail")
        return logits

    prompt = toy_llm.tokenizer.encode("abc abc")
    fine = SamplingParams(max_tokens=50, temperature=1, seed=5, ignore_eos=True)
    want = toy_llm.generate([prompt], fine)[0].text

    async def scenario() -> tuple[str, str]:
        worker = Worker(toy_llm, ServerSettings(), ServerMetrics(toy_llm.engine))
        submit = worker.engine.submit

        async def late(*args, **options):
            """The event loop is busy while the request fails."""
            handle = await submit(*args, **options)
            while handle in worker.engine._running:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            return handle

        worker.engine.submit = late
        broken = SamplingParams(n=2, max_tokens=50, seed=1, ignore_eos=True, logits_processors=(bad,))
        works = [
            GenerationJob(prompt, broken),
            GenerationJob(prompt, fine),
        ]
        handles = [await worker.submit([work], "") for work in works]
        with pytest.raises(Exception, match="failed inside the server") as caught:
            [event async for event in handles[0].events()]
        assert caught.value.status_code == 500
        text = "".join([event.piece.text async for event in handles[1].events()])
        for handle in handles:
            handle.close()
        worker.stop()
        return text, worker.metrics.text().decode()

    text, metrics = asyncio.run(scenario())
    assert text == want
    assert 'outpace:request_success_total{finished_reason="error"} 2.0' in metrics
    assert is_empty(toy_llm)


def test_a_step_that_fails_ends_its_requests_and_the_server_goes_on(toy_llm, client, caplog):
    forward, is_broken = toy_llm.target.forward, True

    def breaks(*args, **options):
        if is_broken:
            raise RuntimeError("secret detail")
        return forward(*args, **options)

    toy_llm.target.forward = breaks
    with serving(create_app(toy_llm)) as address:
        answer = client.post(address + PATH, json=BODY)
        assert answer.status_code == 500
        assert answer.json()["error"] == {
            "message": "the request failed inside the server",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
        assert "secret detail" in caplog.text
        is_broken = False
        assert client.post(address + PATH, json=BODY).status_code == 200
        assert client.get(address + "/health").status_code == 200
    assert is_empty(toy_llm)


def test_a_dead_engine_is_seen(toy_llm, client):
    """If ending the requests fails too, everybody gets 500 or 503, and /health says so."""

    def broken(*_):
        raise RuntimeError("secret detail")

    app = create_app(toy_llm)
    with serving(app) as address:
        assert client.post(address + PATH, json={**BODY, "max_tokens": 3}).status_code == 200
        toy_llm.target.forward = toy_llm.abort = broken
        assert client.post(address + PATH, json=BODY).status_code == 500
        wait_for(lambda: app.state.server.worker.is_dead)
        assert client.get(address + "/health").status_code == 503
        assert client.post(address + PATH, json=BODY).status_code == 503


def test_many_at_once_get_what_they_get_alone(make_toy, client):
    llm = make_toy(engine=EngineConfig(max_num_seqs=4))
    seeds = range(24)
    with serving(create_app(llm)) as address, ThreadPoolExecutor(24) as pool:

        def ask(seed: int) -> str:
            body = {**BODY, "messages": [{"role": "user", "content": "abc " * (seed % 7 + 1)}], "max_tokens": 40, "seed": seed}
            return client.post(address + PATH, json=body).json()["choices"][0]["message"]["content"]

        alone = [ask(seed) for seed in seeds]
        assert list(pool.map(ask, seeds)) == alone
        assert len(set(alone)) == len(alone)
    assert is_empty(llm)


def test_siblings_find_the_prompt_in_the_cache(slow):
    """n > 1: the other answers start once the first one has run the prompt."""
    seen = []
    add = slow.engine.add
    slow.engine.add = lambda request: seen.append(slow.engine.metrics.num_prompt_tokens) or add(request)
    with serving(create_app(slow)) as address:
        answer = httpx.post(address + PATH, json={**BODY, "max_tokens": 5, "n": 3}).json()
    assert len(answer["choices"]) == 3
    assert seen == [0, 6, 6]


# ---- the end


def test_sigterm_finishes_what_runs_and_refuses_the_rest():
    process, address = start_toy_server(0.02, 20)
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(httpx.post, address + PATH, json={**BODY, "max_tokens": 60}, timeout=20)
        wait_for(lambda: "num_requests_running 1.0" in httpx.get(address + "/metrics").text)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused = httpx.post(address + PATH, json=BODY)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "service_unavailable_error")
        assert httpx.get(address + "/health").status_code == 503
        assert whole.result().json()["usage"]["completion_tokens"] == 60
    assert process.wait(10) == 0
    errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "shutting down: 1 request is still running, for at most 20 s" in errors


def test_an_idle_server_ends_without_a_warning():
    process, _ = start_toy_server(0.02, 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert "shutting down" not in process.stderr.read()


def test_sigterm_does_not_wait_for_ever():
    process, address = start_toy_server(0.05, 0.3)
    with ThreadPoolExecutor(2) as pool:
        cut = pool.submit(httpx.post, address + PATH, json=BODY, timeout=20)
        wait_for(lambda: "num_requests_running 1.0" in httpx.get(address + "/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert cut.result().status_code == 503
    assert process.wait(10) == 0
