"""The server against its own OpenAPI document: no request that schemathesis generates gets a 500."""

from __future__ import annotations

import json

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_tools import byte_llm, is_empty

from outpace.server import create_app
from outpace.server.api.protocol import ChatRequest, CompletionRequest

NUM_EXAMPLES = 40  # an operation
QUIET = settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def app(monkeypatch):
    llm = byte_llm(monkeypatch, max_len=96)
    llm.strategy("auto")
    app = create_app(llm)
    yield app
    app.state.server.worker.stop()
    assert is_empty(llm)


def test_nothing_made_up_is_our_fault(app):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    num_calls = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @QUIET
        @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        def check(case):
            nonlocal num_calls
            num_calls += 1
            response = case.call()
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.json()["error"].keys() == {"message", "type", "param", "code"}

        check()
    assert num_calls > 3 * NUM_EXAMPLES


def floats(low: float, high: float) -> st.SearchStrategy:
    return st.floats(low, high) | st.none()


FIELDS = {  # values that are right in form
    "temperature": floats(0, 2),
    "top_p": floats(1e-300, 1),
    "min_p": floats(0, 1),
    "top_k": st.integers(-1, 2**31 - 1),
    "presence_penalty": floats(-2, 2),
    "frequency_penalty": floats(-2, 2),
    "repetition_penalty": floats(1e-300, 10),
    "logit_bias": st.dictionaries(st.integers(0, 40).map(str), st.floats(-100, 100), max_size=40),
    "stop": st.text(min_size=1, max_size=256) | st.lists(st.text("abc ", min_size=1, max_size=3), max_size=16),
    "stop_token_ids": st.lists(st.integers(0, 2**31 - 1), max_size=64),
    "ignore_eos": st.booleans(),
    "min_tokens": st.integers(0, 100),
    "max_tokens": st.integers(1, 100),
    "seed": st.integers(0, 2**62 - 1),
    "n": st.integers(1, 16),
    "stream": st.booleans(),
    "echo": st.booleans(),
    "logprobs": st.booleans() | st.integers(0, 20),
    "top_logprobs": st.integers(0, 20),
    "user": st.text(max_size=20),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}])
    | st.sampled_from([{}, {"type": "integer"}, {"enum": ["a", 1]}, {"type": "array", "items": {"$ref": "#"}}, {"pattern": "a{2,}"}]).map(
        lambda schema: {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    ),
    "prediction": st.text(max_size=120).map(lambda text: {"type": "content", "content": text}),
    "tools": st.just([{"type": "function", "function": {"name": "f"}}]),
    "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]),
    "speculative": st.booleans()
    | st.sampled_from(["none", "suffix", "blind:tokens=frequent", "recycling:successors=64+suffix", "suffix:threshold=0", "auto:blind"])
    | st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(
                ["prompt_lookup:branches=64", "suffix:max_suffix=0", "recycling:trust=0", "blind:seed=64", "auto", "suffix+auto"]
            ),
            "num_draft_tokens": st.integers(0, 64),
            "verifier": st.sampled_from(["exact", "typical"]),
            "trace": st.booleans(),
            "sources": st.booleans(),
        },
    ),
}


@pytest.mark.parametrize(
    ("path", "kind", "needed"),
    [
        ("/v1/chat/completions", ChatRequest, {"messages": [{"role": "user", "content": "abc"}]}),
        ("/v1/completions", CompletionRequest, {"prompt": "abc"}),
    ],
)
def test_fields_in_any_combination(app, path, kind, needed):
    """Well-formed requests with few fields at a time, so that many of them are accepted."""
    names = sorted(FIELDS.keys() & kind.model_fields.keys())
    client = TestClient(app)
    statuses = []

    @settings(QUIET, max_examples=3 * NUM_EXAMPLES)
    @given(data=st.data())
    def check(data):
        chosen = data.draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
        body = {**needed, **{name: data.draw(FIELDS[name], name) for name in chosen}}
        response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code in (200, 400), response.text
        statuses.append(response.status_code)

    check()
    assert statuses.count(200) > NUM_EXAMPLES
