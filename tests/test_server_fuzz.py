"""The server against its own OpenAPI document: whatever schemathesis makes up, the answer is never our fault."""

from __future__ import annotations

import json

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_tools import is_empty

from outpace.server import create_app
from outpace.server.protocol import ChatRequest, CompletionRequest

NUM_EXAMPLES = 60  # an operation
QUIET = settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def app(make_toy):
    llm = make_toy(toy={"max_len": 96})
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
    assert num_calls > 300


def example(field: str, kind: type) -> st.SearchStrategy:
    """A value that the field's schema allows, or nothing of the kind."""
    from hypothesis_jsonschema import from_schema

    schema = kind.model_json_schema()
    return from_schema({**schema["properties"][field], "$defs": schema.get("$defs", {})})


@pytest.mark.parametrize(
    ("path", "kind", "needed"),
    [
        ("/v1/chat/completions", ChatRequest, {"messages": [{"role": "user", "content": "abc"}]}),
        ("/v1/completions", CompletionRequest, {"prompt": "abc"}),
    ],
)
def test_fields_in_any_combination(app, path, kind, needed):
    """Requests that are right in form: few fields at a time, so that many of them are carried out."""
    names = sorted(set(kind.model_fields) - {"messages", "prompt", "model", "tools"})
    client = TestClient(app)
    statuses = []

    @QUIET
    @given(data=st.data())
    def check(data):
        chosen = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
        body = {**needed, **{name: data.draw(example(name, kind), name) for name in chosen}}
        response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code in (200, 400), response.text
        statuses.append(response.status_code)

    check()
    assert statuses.count(200) > NUM_EXAMPLES // 4
