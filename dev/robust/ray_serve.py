"""Two replicas under Ray Serve, one of them killed under load: what its streams and all other requests see; and a drafter that changes.

usage: python dev/robust/ray_serve.py [--model tiny] [--clients 6] [--seconds 30]     (pip install 'outpace[scale,bench]')

Clients send chats without pause. After a third of the time one replica is killed with SIGKILL. A stream that had begun there must end
with an error event, and no other request may fail. When a new replica has taken its place, the drafter of all replicas changes; no stream
may notice. Before all this, follow-ups with `previous_response_id` must find their conversation. At the end all texts with the same
prompt must be equal, and a request whose client left must not run on. Prints one JSON document; the exit code is 1 if something was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

import httpx2 as httpx
import ray
from ray import serve
from ray_processes import processes_named

from outpace.server.ray import RayOptions, build_app

PROMPTS = [f"Name a river of country number {number} and say where it flows." for number in range(12)]
URL = "http://127.0.0.1:{port}"
REPLICA = b"ray::ServeReplica:default:Replica"
FIRST, SECOND = "prompt_lookup", "suffix"  # drafters


async def ask(client: httpx.AsyncClient, prompt: str) -> dict[str, Any]:
    """One stream: its text, the error event if there was one, whether it had begun, and the drafter."""
    fields = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 48, "temperature": 0, "stream": True}
    found: dict[str, Any] = {"prompt": prompt, "text": "", "has_begun": False, "is_ended": False, "error": None, "drafter": None}
    try:
        async with client.stream("POST", "/v1/chat/completions", json=fields) as response:
            found["status"] = response.status_code
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    found["is_ended"] = True
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    found["error"] = chunk["error"]["code"]
                    continue
                found["has_begun"] = True
                found["drafter"] = (chunk.get("speculative") or {}).get("drafter", found["drafter"])
                for choice in chunk["choices"]:
                    found["text"] += choice["delta"].get("content") or ""
    except httpx.HTTPError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found


async def ask_once(port: int) -> dict[str, Any]:
    """One more stream."""
    async with httpx.AsyncClient(base_url=URL.format(port=port), timeout=120, trust_env=False) as client:
        return await ask(client, PROMPTS[0])


def metrics_of(port: int) -> str:
    """The metrics of all replicas."""
    return httpx.get(URL.format(port=port) + "/metrics", trust_env=False, timeout=30).text


def leave_early(port: int) -> float:
    """Leave a long stream after its first event; the number of requests that run some seconds later."""
    fields = {"messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 900, "ignore_eos": True, "stream": True}
    url = URL.format(port=port) + "/v1/chat/completions"
    with httpx.Client(timeout=120, trust_env=False) as client, client.stream("POST", url, json=fields) as response:
        next(response.iter_lines())
    num_running = 1.0
    for _ in range(20):
        samples = [line for line in metrics_of(port).splitlines() if line.startswith("outpace:num_requests_running")]
        num_running = sum(float(line.split()[-1]) for line in samples)
        if not num_running:
            break
        time.sleep(0.25)
    return num_running


def replicas_of_one_prompt(port: int) -> int:
    """The number of replicas that answer a prompt which is sent six times."""

    def counts() -> Counter[str]:
        found = Counter[str]()
        for line in metrics_of(port).splitlines():
            if line.startswith("outpace:prompt_tokens_total"):
                found[line.split('replica="')[1].split('"')[0]] += int(float(line.split()[-1]))
        return found

    before = counts()
    for _ in range(6):
        asyncio.run(ask_once(port))
    return len(counts() - before)


def num_wrong_follow_ups(port: int, num_conversations: int = 4) -> int:
    """Conversations that the server keeps, of two turns and a look at the last one: the number of requests that did not find them."""
    num_wrong = 0
    with httpx.Client(base_url=URL.format(port=port) + "/v1/responses", timeout=120, trust_env=False) as client:
        for number in range(num_conversations):
            found = client.post("", json={"input": PROMPTS[number], "max_output_tokens": 8}).json()
            fields = {"input": "And the longest one?", "max_output_tokens": 8, "previous_response_id": found["id"]}
            second = client.post("", json=fields)
            num_wrong += second.status_code != 200 or client.get("/" + second.json()["id"]).status_code != 200
    return num_wrong


async def load(port: int, num_clients: int, seconds: float, events: dict[str, float]) -> list[dict[str, Any]]:
    """Run the clients; `events` gets the times of the kill and of the change of drafter."""
    answers, is_over = list[dict[str, Any]](), asyncio.Event()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=URL.format(port=port), timeout=120, limits=limits, trust_env=False) as client:

        async def one(number: int) -> None:
            turn = number
            while not is_over.is_set():
                found = await ask(client, PROMPTS[turn % len(PROMPTS)])
                answers.append({**found, "at": time.monotonic()})
                turn += num_clients

        async def disturb() -> None:
            await asyncio.sleep(seconds / 3)
            os.kill(processes_named(REPLICA, os.getpid())[0], signal.SIGKILL)
            events["replica killed"] = time.monotonic()
            await asyncio.sleep(seconds / 3)
            await asyncio.to_thread(deploy, SECOND)
            events["drafter changed"] = time.monotonic()
            await asyncio.sleep(seconds / 3)
            is_over.set()

        await asyncio.gather(disturb(), *(one(number) for number in range(num_clients)))
    return answers


OPTIONS: dict[str, Any] = {}


def deploy(drafter: str) -> None:
    """Start the application, or change its drafter where it runs."""
    serve.run(build_app(RayOptions(**OPTIONS, drafter=drafter)))


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=8765)
    args = parser.parse_args()
    OPTIONS.update(model=args.model, replicas=2, threads=1, engine={"max_num_seqs": 4})
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": args.port})
    events: dict[str, float] = {}
    try:
        deploy(FIRST)
        num_replicas = len(processes_named(REPLICA, os.getpid()))
        num_of_one = replicas_of_one_prompt(args.port)
        num_wrong = num_wrong_follow_ups(args.port)
        started = time.monotonic()
        answers = asyncio.run(load(args.port, args.clients, args.seconds, events))
        last = asyncio.run(ask_once(args.port))
        num_running = leave_early(args.port)
        metrics = metrics_of(args.port)
    finally:
        serve.shutdown()
        ray.shutdown()
    document = summary([*answers, last], metrics)
    document["drafter_at_the_end"] = last["drafter"]
    document["num_running_after_a_client_left"] = num_running
    document["num_replicas_of_one_prompt"] = num_of_one
    document["num_wrong_follow_ups"] = num_wrong
    document["is_good"] &= num_of_one == 1 and not num_wrong
    document["is_good"] &= last["drafter"] == SECOND and num_running == 0
    document["events"] = {name: round(at - started, 1) for name, at in events.items()}
    document["num_replicas"] = num_replicas
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    sys.exit(0 if document["is_good"] else 1)


def summary(answers: list[dict[str, Any]], metrics: str) -> dict[str, Any]:
    """What became of all requests."""
    broken = [answer for answer in answers if answer["error"] == "replica_lost"]
    failed = [answer for answer in answers if answer["error"] not in (None, "replica_lost") or answer["status"] != 200]
    whole = [answer for answer in answers if answer["error"] is None and answer["is_ended"]]
    texts = {prompt: {answer["text"] for answer in whole if answer["prompt"] == prompt} for prompt in PROMPTS}
    num_different = sum(len(found) > 1 for found in texts.values())
    lost = [answer for answer in answers if not answer["is_ended"] and answer["error"] is None]
    return {
        "num_requests": len(answers),
        "num_whole": len(whole),
        "num_streams_ended_with_the_replica": len(broken),
        "num_failed": len(failed),
        "num_lost": len(lost),
        "num_prompts_with_two_texts": num_different,
        "drafters": Counter(answer["drafter"] for answer in whole),
        "errors": Counter(str(answer["error"]) for answer in failed),
        "num_replicas_in_metrics": len({part.split('"')[1] for part in metrics.split("{") if part.startswith("replica=")}),
        "is_good": not (failed or lost or num_different) and all(answer["has_begun"] for answer in broken) and bool(whole),
    }


if __name__ == "__main__":
    main()
