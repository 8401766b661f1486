"""Which replica a request is for, and when it goes to another one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from outpace.server.api.responses.response_store import ResponseStore
from outpace.server.replicas.affinity import SLACK, affinity_key, by_load, keeper_of
from outpace.server.replicas.merged_metrics import merged


def key(fields, **headers):
    return affinity_key("/v1/chat/completions", headers, json.dumps(fields).encode())


SYSTEM = {"role": "system", "content": "You are brief."}
FIRST = {"role": "user", "content": "What is a river?"}
REST = [{"role": "assistant", "content": "Water."}, {"role": "user", "content": "And a lake?"}]


def test_the_turns_of_a_conversation_have_one_key():
    start = key({"messages": [SYSTEM, FIRST]})
    assert start
    assert key({"messages": [SYSTEM, FIRST, *REST], "temperature": 1}) == start
    assert key({"messages": [SYSTEM, {"role": "user", "content": "Another one"}]}) != start
    assert key({"messages": [FIRST]}) != start
    assert key({"messages": [SYSTEM, FIRST]}, authorization="Bearer a") != start
    assert key({"messages": [SYSTEM, FIRST]}, authorization="Bearer a") != key({"messages": [SYSTEM, FIRST]}, authorization="Bearer b")


def test_prompts_with_one_start_have_one_key():
    text = "def f(x):\n    return x\n" * 40
    assert key({"prompt": text}) == key({"prompt": text + "more"}) != key({"prompt": "more" + text})
    assert key({"input": "hello"}) == key({"input": "hello", "instructions": None}) != key({"input": "hello", "instructions": "be brief"})
    assert key({"prompt": [1, 2, 3]}) == key({"prompt": [1, 9, 9]}) != key({"prompt": [2]})


def test_a_client_may_say_what_belongs_together():
    assert key({"prompt_cache_key": "job", "prompt": "a"}) == key({"prompt_cache_key": "job", "messages": [FIRST]})


NAME = "v3k2ab1c"
ID = f"resp_{'0a' * 16}_{NAME}"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"input": "And a lake?", "previous_response_id": ID}),
        ("/v1/responses", {"input": "And a lake?", "previous_response_id": ID, "prompt_cache_key": "job"}),
        (f"/v1/responses/{ID}", None),
        (f"/responses/{ID}/", None),
    ],
)
def test_a_kept_response_is_asked_of_the_replica_that_has_it(path, fields):
    body = b"" if fields is None else json.dumps(fields).encode()
    assert keeper_of(affinity_key(path, {}, body)) == NAME


def test_an_id_names_the_replica_that_keeps_the_response():
    for replica, keeper in ((NAME, NAME), ("", "")):
        body = json.dumps({"input": "hello", "previous_response_id": ResponseStore(replica=replica).new_id()}).encode()
        assert keeper_of(affinity_key("/v1/responses", {}, body)) == keeper


@pytest.mark.parametrize("name", ["resp_" + "0b" * 16, "resp_none", "", "resp_" + "0" * 32 + "_a b", "x" + ID, None, 3])
def test_other_responses_name_no_replica(name):
    found = affinity_key("/v1/responses", {}, json.dumps({"input": "hello", "previous_response_id": name}).encode())
    assert keeper_of(found) == ""
    assert found == affinity_key("/v1/responses", {}, b'{"input": "hello"}')


@given(st.text(max_size=40))
def test_no_client_can_name_a_replica_by_a_prompt(text):
    for fields in ({"prompt": text}, {"prompt": "a", "prompt_cache_key": text}):
        assert keeper_of(key(fields)) == ""


@pytest.mark.parametrize("body", [b"", b"nope", b"[1]", b"{}", b'{"prompt": 3}', b"\xff", b"[" * 100_000])
def test_without_a_prompt_there_is_no_key(body):
    assert affinity_key("/v1/completions", {}, body) == ""


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 8))
def test_the_preferred_replica_is_first_unless_it_has_many_more_requests(lengths, slack):
    replicas = list(range(len(lengths)))
    order = by_load(replicas, lengths, slack)
    assert sorted(order) == replicas
    assert lengths[order[0]] - min(lengths) <= slack
    if lengths[0] - min(lengths) <= slack:
        assert order == replicas
    else:
        assert [lengths[place] for place in order] == sorted(lengths)


def test_no_replica():
    assert by_load([], [], SLACK) == []


def test_metrics_of_all_replicas():
    text = '# HELP outpace:a_total A.\n# TYPE outpace:a_total counter\noutpace:a_total{x="1"} 3.0\n# TYPE outpace:b gauge\noutpace:b 5.0\n'
    lines = merged({"r1": text, "r2": text}).decode().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert sorted(samples) == [
        'outpace:a_total{replica="r1",x="1"} 3.0',
        'outpace:a_total{replica="r2",x="1"} 3.0',
        'outpace:b{replica="r1"} 5.0',
        'outpace:b{replica="r2"} 5.0',
    ]
    assert sum(line.startswith("# TYPE outpace:a") for line in lines) == 1


def test_the_metrics_of_a_server_can_be_merged(toy_llm):
    from prometheus_client.parser import text_string_to_metric_families

    from outpace.server.prometheus import ServerMetrics

    def samples(text):
        found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(one.name, frozenset(one.labels.items()), one.value) for one in found}

    text = ServerMetrics(toy_llm.engine).text().decode()
    label = ("replica", "r")
    assert samples(merged({"r": text}).decode()) == {(name, labels | {label}, value) for name, labels, value in samples(text)}
