"""What the server rejects, and how."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from http_tools import ask, complete, refusal

from outpace.errors import BadInputError
from outpace.outputs import Job
from outpace.server import ServerSettings, create_app


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"stop_token_ids": [999]}, "stop_token_ids"),
        ({"allowed_token_ids": [999]}, "allowed_token_ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "user", "content": "a", "prefix": True}]}, "messages.0"),
        ({"messages": [{"role": "assistant", "content": "a", "prefix": True}], "add_generation_prompt": True}, "add_generation_prompt"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1000}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "cat", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": "a" * 400}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"store": True}, "store"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prediction": 5}, "prediction"),
        ({"speculative": {"methd": "none"}}, "speculative.methd"),
        ({"speculative": {"num_draft_tokens": 65}}, "speculative.num_draft_tokens"),
        ({"speculative": {"verifier": "lucky"}}, "speculative"),
        ({"speculative": {"trace": True}}, "speculative.trace"),
        ({"speculative": "os:system"}, "speculative"),
        ({"speculative": "suffix+os:system"}, "speculative"),
        ({"speculative": "auto:os:system"}, "speculative"),
        ({"speculative": "auto:suffix:path=/etc/passwd"}, "speculative"),
        ({"speculative": "suffix:/etc/passwd"}, "speculative"),
        ({"speculative": "suffix:path=/etc/passwd"}, "speculative"),
        ({"speculative": "suffix:path=corpus"}, "speculative"),
        ({"speculative": "recycling:successors=1000000"}, "speculative"),
        ({"speculative": "suffix:threshold=5"}, "speculative"),
        ({"speculative": "suffix:threshold=0"}, "speculative"),
        ({"speculative": "suffix:sharpness=5"}, "speculative"),
        ({"speculative": "+".join(["suffix"] * 5)}, "speculative"),
        ({"speculative": ""}, "speculative"),
    ],
)
def test_what_cannot_be_applied_is_refused(server, fields, param):
    error = refusal(ask(server, **fields))
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("fields", [{"frobnicate": 1}, {"speculative": "suffix:threshold=5"}, {"logit_bias": {"999": 1}}])
def test_a_stream_is_refused_before_it_starts(server, fields):
    refusal(ask(server, **fields, stream=True))


def test_the_messages_have_the_numbers(server):
    assert "400 tokens" in refusal(ask(server, messages=[{"role": "user", "content": "a" * 400}]))["message"]
    assert refusal(ask(server, max_tokens=1000))["message"] == "11 prompt tokens and 1000 new ones do not fit into 400"


@pytest.mark.parametrize("fields", [{"best_of": 2, "n": 3}, {"suffix": "x"}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [999]}])
def test_what_a_completion_refuses(server, fields):
    refusal(complete(server, **fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"messages": "\xff"}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b"[" * 100_000,
        b"\x00",
        b"9" * 5000,
    ],
)
def test_broken_bodies(server, body):
    refusal(server.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}))


def test_a_body_that_is_not_json(server):
    assert "Content-Type" in refusal(server.post("/v1/chat/completions", content=b"{}"))["message"]


def test_unknown_places_and_methods(server):
    assert "/v1/nothing" in refusal(server.get("/v1/nothing"), 404)["message"]
    refusal(server.get("/v1/chat/completions"), 405)
    refusal(server.get("/static/../conftest.py"), 404)
    refusal(server.get("/static/nothing.js"), 404)
    assert refusal(ask(server, model="gpt-4"), 404)["code"] == "model_not_found"


def test_bodies_have_a_limit(toy_llm):
    with TestClient(create_app(toy_llm, ServerSettings(max_body_bytes=1000))) as client:
        assert ask(client).status_code == 200
        refusal(ask(client, user="a" * 500, metadata={"a": "b" * 500}), 413)

        def drip() -> Iterator[bytes]:  # without a Content-Length
            yield b'{"messages": ['
            for _ in range(100):
                yield b" " * 100

        refusal(client.post("/v1/chat/completions", content=drip(), headers={"Content-Type": "application/json"}), 413)


def test_specs_the_server_was_started_with_are_allowed(make_toy):
    llm = make_toy("outpace.drafters.suffix.drafter:SuffixDrafter")
    with TestClient(create_app(llm, ServerSettings(allowed_drafters=("outpace.drafters.blind:BlindDrafter:tokens=frequent",)))) as client:
        for spec in ("outpace.drafters.suffix.drafter:SuffixDrafter", "outpace.drafters.blind:BlindDrafter:tokens=frequent", "suffix"):
            assert ask(client, speculative=spec).json()["speculative"]["drafter"] == spec
        refusal(ask(client, speculative="outpace.drafters.blind:BlindDrafter"))


@pytest.mark.parametrize(
    "fields", [{"max_queue": -1}, {"request_timeout": 0}, {"request_timeout": float("nan")}, {"default_max_tokens": 0}, {"api_keys": ("",)}]
)
def test_settings_are_checked(fields):
    with pytest.raises(BadInputError):
        ServerSettings(**fields)


def test_one_answer_with_a_bug_behind_the_engine(server, monkeypatch):
    """An error while tokens become text ends its own request with 500, and no other."""
    take = Job.take
    monkeypatch.setattr(Job, "take", lambda job: 1 / 0 if job.request.sampling_params.max_tokens == 19 else take(job))
    assert refusal(ask(server, max_tokens=19), 500)["message"] == "the request failed inside the server"
    assert ask(server).status_code == 200
