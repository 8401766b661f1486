"""A plan beside the load test of a server whose forward passes take a known time, however busy this machine is."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

pytest.importorskip("fastapi")

from server_tools import serving

from outpace.bench import server_load
from outpace.bench.workloads import Workload
from outpace.controller.cost import CostTable
from outpace.params import SamplingParams
from outpace.plan.load_check import compare
from outpace.plan.profile import measure
from outpace.plan.throughput import Load
from outpace.server import ServerSettings, create_app

FIXED, PER_TOKEN = 30.0, 1.5  # milliseconds of a forward pass, and of a token in it: much more than all else takes
SIZES = tuple(float(size) for size in (2, 4, 8, 16, 32, 64))
MAX_TOKENS = 40
DRAFTER = "auto:prompt_lookup"  # learns nothing from one request for the next, so that a prompt may be sent twice
CONVERSATIONS = [[{"role": "user", "content": letter * 3 + "bcd, efg. " * (3 + place)}] for place, letter in enumerate("abcdefgh")]


def costs_of(llm) -> CostTable:
    """Makes every forward pass take its time; the table of these costs."""
    forward = llm.target.forward

    def slow(batch, num_tokens=0):
        size = max(num_tokens, sum(max(2, len(segment.token_ids)) for segment in batch))
        ends_at = time.perf_counter() + (FIXED + PER_TOKEN * size) / 1e3
        output = forward(batch, num_tokens)
        time.sleep(max(0.0, ends_at - time.perf_counter()))
        return output

    llm.target.forward = slow
    line = tuple(float(value) for value in FIXED + PER_TOKEN * np.array(SIZES))
    return CostTable(SIZES, line, line, (0.0,) * len(SIZES))


@pytest.mark.real
def test_a_plan_is_within_a_fifth_of_the_load_test(make_toy):
    llm = make_toy("none", toy={"sharpness": 6.0, "seed": 5}, engine={"max_num_seqs": 8})  # `auto` is built when its costs are known
    llm.strategies.__dict__["costs"] = costs_of(llm)
    workloads = [Workload(str(place), "text", "text", messages) for place, messages in enumerate(CONVERSATIONS)]
    own = measure(llm, CONVERSATIONS, SamplingParams(max_tokens=MAX_TOKENS), DRAFTER)
    with serving(create_app(llm, ServerSettings(max_queue=64))) as url:
        places = {name: server_load.Place(url, name) for name in ("none", DRAFTER)}
        document = server_load.run(places, workloads, [1, 4, 12], 8.0, {"max_tokens": MAX_TOKENS, "temperature": 0})
    checks = compare(own, Load(max_num_seqs=8), document)
    shown = "; ".join(f"{check.drafter} {check.num_clients}: {check.planned:.0f} for {check.measured:.0f}" for check in checks)
    assert len(checks) == 6
    assert all(check.is_good for check in checks), shown


def rate(llm, drafter, num_clients, seconds=8.0):
    """Tokens per second of clients that ask without pause."""
    prompts = itertools.cycle([llm.tokenizer.encode_chat(conversation) for conversation in CONVERSATIONS])
    jobs, num_tokens, started = [], 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        while len(jobs) < num_clients:
            jobs.append(llm.submit(next(prompts), SamplingParams(max_tokens=MAX_TOKENS), speculative_config=drafter))
        llm.step()
        for job in jobs:
            num_tokens += sum(len(step.token_ids) for step in job.steps)
            job.steps.clear()
        jobs = [job for job in jobs if not job.is_done]
    for job in jobs:
        llm.abort(job)
    return num_tokens / (time.perf_counter() - started)


@pytest.mark.parametrize("num_clients", [1, 4, 8])
def test_auto_chooses_no_slower_passes_than_plain_ones(make_toy, monkeypatch, num_clients):
    """In virtual time, in which only forward passes take any."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    llm = make_toy("none", toy={"sharpness": 6.0, "seed": 5}, engine={"max_num_seqs": 8})
    llm.strategies.__dict__["costs"] = costs_of(llm)
    plain = rate(llm, "none", num_clients)
    assert rate(llm, DRAFTER, num_clients) > 0.97 * plain
