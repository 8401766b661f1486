"""Fault campaign against a real `outpace serve`. usage: python dev/robust/faults.py [--soak SECONDS] [--max-growth MB]

Starts servers on free ports with the default model, causes the faults of misbehaving clients and failing parts, and prints one line per
fault with the observations. After each fault the server must be healthy, with no request running or waiting and no K/V in use. Exit code 1
if any check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
from real_server import CHAT, DRAFTERS, GAUGES, QUESTIONS, Failed, Serving, require, serving
from soak import soak

HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: faults\r\nContent-Type: application/json\r\n"
BIG = 10 * 2**20


# ---- faults of clients


async def _open(server: Serving, body: bytes, length: int | None = None, receive_buffer: int = 0) -> tuple[Any, Any]:
    """Open a connection and send a request; `length` is the announced Content-Length."""
    plug = socket.socket()
    if receive_buffer:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=plug, limit=2048)
    writer.write(f"{HEAD}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


def hang_ups(server: Serving) -> str:
    """200 clients disconnect in the middle of their stream, half of them with a reset; a patient client still gets its answer."""
    patient = server.body(3, 60)
    want = _text(server, patient)

    async def one(number: int) -> int:
        body = server.body(number, 400, stream=True, ignore_eos=True, speculative=DRAFTERS[number % len(DRAFTERS)])
        reader, writer = await _open(server, json.dumps(body).encode())
        data = b""
        while data.count(b"data: ") < 1 + number % 4:
            piece = await reader.read(256)
            if not piece:
                break
            data += piece
        if number % 2:
            writer.transport.abort()
        writer.close()
        return int(data[9:12] or 0)

    async def all_of_them() -> tuple[list[int], str]:
        clients = asyncio.gather(*(one(number) for number in range(200)))
        answer = await asyncio.to_thread(_text, server, patient)
        return await asyncio.wait_for(clients, 300), answer

    codes, answer = asyncio.run(all_of_them())
    require(answer == want, "the patient client got another text")
    require(codes.count(200) == 200, f"of 200 clients only {codes.count(200)} got a stream")
    return "200 of 200 hung up after 1 to 4 events; the patient client's answer was right"


def _text(server: Serving, body: dict[str, Any]) -> str:
    answer = httpx.post(server.url + CHAT, json=body, timeout=300)
    require(answer.status_code == 200, f"HTTP {answer.status_code}: {answer.text[:200]}")
    return str(answer.json()["choices"][0]["message"]["content"])


def slow_readers(server: Serving) -> str:
    """8 clients read 64 bytes every half second from a stream full of log-probabilities; other clients are not affected."""
    patient = server.body(1, 60)
    want = _text(server, patient)

    async def slow(number: int, until: float) -> int:
        body = server.body(number, 500, stream=True, ignore_eos=True, logprobs=True, top_logprobs=20)
        reader, writer = await _open(server, json.dumps(body).encode(), receive_buffer=2048)
        num_bytes = 0
        while time.monotonic() < until:
            num_bytes += len(await reader.read(64))
            await asyncio.sleep(0.5)
        writer.transport.abort()
        return num_bytes

    async def both() -> tuple[list[int], list[float]]:
        until, seconds = time.monotonic() + 25, []
        clients = asyncio.gather(*(slow(number, until) for number in range(8)))
        await asyncio.sleep(1)
        while time.monotonic() < until - 1 and len(seconds) < 10:
            started = time.monotonic()
            require(await asyncio.to_thread(_text, server, patient) == want, "the other client got another text")
            seconds.append(time.monotonic() - started)
        return await clients, seconds

    read, seconds = asyncio.run(both())
    require(len(seconds) > 1 and min(read) > 500, f"only {len(seconds)} answers; the slow ones read {min(read)} bytes")
    return f"8 readers took {sum(read)} bytes in 25 s; {len(seconds)} answers meanwhile, the slowest in {max(seconds):.1f} s"


def short_bodies(server: Serving) -> str:
    """50 bodies are shorter than announced: the connection is closed, or left open for a while."""

    async def one(number: int) -> bytes:
        body = json.dumps(server.body(number)).encode()
        reader, writer = await _open(server, body[: number * len(body) // 50], len(body))
        if number % 2:
            writer.write_eof()
            data: bytes = await asyncio.wait_for(reader.read(200), 10)
        else:
            await asyncio.sleep(1)
            data = b""
        writer.transport.abort()
        return data[9:12]

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*(one(number) for number in range(50)))

    codes = asyncio.run(all_of_them())
    require(not any(code.startswith((b"2", b"5")) for code in codes), f"answered with {set(codes)}")
    require(not server.gauges()[GAUGES[0]], "a request without its end was started")
    return f"50 cut bodies, answered with {sorted({code.decode() or 'nothing' for code in codes})}"


def invalid_utf8(server: Serving) -> str:
    """Invalid UTF-8 in several places of the body, and lone surrogates."""
    bodies = [
        b'{"messages":[{"role":"user","content":"' + bad + b'"}]}' for bad in (b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8", b"\\ud800")
    ]
    bodies += [b"\xff\xfe{}", b'{"\xff":1}', b"\x80" * 1000]
    codes = [httpx.post(server.url + CHAT, content=b, headers={"Content-Type": "application/json"}, timeout=30).status_code for b in bodies]
    require(set(codes) == {400}, f"answered with {codes}")
    return f"{len(bodies)} bodies, all refused with 400"


def big_bodies(server: Serving) -> str:
    """Bodies of 10 MB, with an announced length and in chunks without one; four at once."""

    def chunks() -> Iterator[bytes]:
        yield b'{"messages":[{"role":"user","content":"'
        for _ in range(BIG // 65536):
            yield b"a" * 65536

    async def one(number: int) -> int:
        async with httpx.AsyncClient(timeout=60) as client:
            headers = {"Content-Type": "application/json"}
            if number % 2:
                return (
                    await client.post(server.url + CHAT, content=json.dumps(server.body(0, user="a" * BIG)), headers=headers)
                ).status_code
            return (await asyncio.to_thread(httpx.post, server.url + CHAT, content=chunks(), headers=headers, timeout=60)).status_code

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(one(number) for number in range(4)), return_exceptions=True)

    codes = asyncio.run(all_of_them())  # a server may close the connection to a client that keeps writing after the refusal
    require(all(code == 413 or isinstance(code, httpx.TransportError) for code in codes) and 413 in codes, f"answered with {codes}")
    return f"4 bodies of 10 MB: {[code if isinstance(code, int) else 'hung up' for code in codes]}"


def big_prompts(server: Serving) -> str:
    """A prompt of 10 MB to a server that accepts such bodies; small requests are answered meanwhile."""
    done: list[int] = []

    def ask() -> None:
        body = {"messages": [{"role": "user", "content": "word " * (BIG // 5)}]}
        done.append(httpx.post(server.url + CHAT, json=body, timeout=300).status_code)

    thread, started = threading.Thread(target=ask), time.monotonic()
    thread.start()
    slowest = 0.0
    while thread.is_alive():
        before = time.monotonic()
        _text(server, server.body(0, 4))
        slowest = max(slowest, time.monotonic() - before)
    require(done == [400], f"answered with {done}")
    require(slowest < 3, f"a small request waited {slowest:.1f} s")
    return f"refused with 400 after {time.monotonic() - started:.1f} s; small requests meanwhile took at most {slowest:.1f} s"


CLIENTS: list[Callable[[Serving], str]] = [hang_ups, slow_readers, short_bodies, invalid_utf8, big_bodies]


# ---- faults of the server


def terminate(_: Any = None) -> str:
    """SIGTERM while 24 requests run and wait, with a shutdown timeout of 3 seconds: all requests end, and the exit code is 0."""
    with serving("--shutdown-timeout", "3") as server:

        async def one(number: int) -> str:
            body = server.body(number, 1000, stream=True, ignore_eos=True)
            try:
                async with httpx.AsyncClient(timeout=60) as client, client.stream("POST", server.url + CHAT, json=body) as answer:
                    data = (await answer.aread()).decode()
                    return "told" if answer.status_code == 503 or '"error"' in data else "whole" if "[DONE]" in data else "cut"
            except httpx.TransportError:
                return "cut"

        async def all_of_them() -> tuple[list[str], int, float]:
            clients = asyncio.gather(*(one(number) for number in range(24)))
            await asyncio.sleep(3)
            busy = await asyncio.to_thread(server.gauges)
            require(busy[GAUGES[0]] > 0, "there was no load")
            server.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            await asyncio.sleep(0.5)
            late = await asyncio.to_thread(httpx.post, server.url + CHAT, json=server.body(0), timeout=30)
            require(late.status_code == 503, f"a late request got {late.status_code}")
            code = await asyncio.to_thread(server.process.wait, 30)
            return await clients, code, time.monotonic() - started

        ends, code, seconds = asyncio.run(all_of_them())
        require(code == 0, f"exit code {code}: {server.log.read_text()[-500:]}")
        require("cut" not in ends, f"{ends.count('cut')} streams were cut without a word")
        require(seconds < 3 + 5 + 4, f"it took {seconds:.1f} s")
        return f"exit code 0 after {seconds:.1f} s; {ends.count('whole')} answers whole, {ends.count('told')} told 503; a late one refused"


def raising_processor(_: Any = None) -> str:
    """A logits processor raises in the middle of one request; the requests beside it end as they do alone."""
    import outpace.llm as room
    from outpace.sampling.processors import Processor
    from outpace.server import create_app
    from outpace.server.listen import in_thread

    class Raises(Processor):
        num_calls = 0

        def apply(self, row: Any, path: Any) -> None:
            self.num_calls += 1
            if self.num_calls > 20:
                raise RuntimeError("a processor raises, as it should")

    build = room.build_processors
    room.build_processors = lambda params, *rest: [*build(params, *rest), *([Raises()] if params.seed == 666 else [])]  # the hook
    llm = room.LLM()
    try:
        with in_thread(create_app(llm)) as url:

            def post(seed: int) -> tuple[int, str]:
                body = {"messages": [{"role": "user", "content": QUESTIONS[seed % 4]}], "max_tokens": 60, "temperature": 0.8, "seed": seed}
                answer = httpx.post(url + CHAT, json=body, timeout=120)
                return answer.status_code, answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.text

            async def together(seeds: list[int]) -> list[tuple[int, str]]:
                return await asyncio.gather(*(asyncio.to_thread(post, seed) for seed in seeds))

            alone = [post(seed) for seed in (1, 2, 3)]
            *beside, bad = asyncio.run(together([1, 2, 3, 666]))
            require(bad[0] == 500 and "raises" not in bad[1], f"the bad request got {bad}")
            require(beside == alone and all(code == 200 for code, _ in alone), "the requests beside it were touched")
            require(httpx.get(url + "/health").status_code == 200, "/health is not fine")
            scheduler = llm.engine.scheduler
            left = (len(scheduler.running), len(scheduler.waiting), llm.target.kv_use.share, len(llm._jobs))
            require(not any(left), f"left behind: running, waiting, K/V, jobs = {left}")
    finally:
        room.build_processors = build
    return "the bad request got 500 without a word of ours, 3 beside it were whole, nothing was left behind"


# ---- the campaign


def main() -> int:
    """Run the campaign and print one line per fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--max-growth", type=float, default=32.0, metavar="MB")
    parser.add_argument("--only", default="", help="comma-separated names of faults")
    options = parser.parse_args()
    chosen = set(options.only.split(",")) - {""}
    num_failed = 0

    def attempt(name: str, fault: Callable[[Any], str], server: Serving | None = None) -> None:
        nonlocal num_failed
        started = time.monotonic()
        try:
            text = fault(server)
            if server is not None:
                require(server.process.poll() is None, f"the server has ended: {server.log.read_text()[-500:]}")
                text += f"; all free {server.settle():.1f} s later, RSS {server.rss():.0f} MB"
        except (Failed, httpx.HTTPError, OSError, TimeoutError, subprocess.TimeoutExpired) as error:
            num_failed += 1
            text = f"FAILED: {type(error).__name__}: {error}"
        print(f"{name:18} {time.monotonic() - started:6.1f} s  {text}", flush=True)  # noqa: T201

    wanted = [fault for fault in CLIENTS if not chosen or fault.__name__ in chosen]
    with_soak = options.soak > 0 and (not chosen or "soak" in chosen)
    if wanted or with_soak:
        with serving("--max-queue", "256") as server:
            for fault in wanted:
                attempt(fault.__name__, fault, server)
            if with_soak:
                attempt("soak", lambda server: soak(server, options.soak, options.max_growth), server)
    if not chosen or "big_prompts" in chosen:
        with serving("--max-body-mb", "16") as server:
            attempt("big_prompts", big_prompts, server)
    for other in (terminate, raising_processor):
        if not chosen or other.__name__ in chosen:
            attempt(other.__name__, other)
    print("all faults passed" if not num_failed else f"{num_failed} FAILED", flush=True)  # noqa: T201
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
