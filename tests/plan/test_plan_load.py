"""A plan beside the load test of a server whose forward passes take a known time, however busy this machine is."""

from __future__ import annotations

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
    texts = [letter * 3 + "bcd, efg. " * (3 + place) for place, letter in enumerate("abcdefgh")]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    workloads = [Workload(str(place), "text", "text", messages) for place, messages in enumerate(conversations)]
    own = measure(llm, conversations, SamplingParams(max_tokens=MAX_TOKENS), DRAFTER)
    with serving(create_app(llm, ServerSettings(max_queue=64))) as url:
        places = {name: server_load.Place(url, name) for name in ("none", DRAFTER)}
        document = server_load.run(places, workloads, [1, 4, 12], 8.0, {"max_tokens": MAX_TOKENS, "temperature": 0})
    checks = compare(own, Load(max_num_seqs=8), document)
    shown = "; ".join(f"{check.drafter} {check.num_clients}: {check.planned:.0f} for {check.measured:.0f}" for check in checks)
    assert len(checks) == 6
    assert all(check.is_good for check in checks), shown
