"""How the server is addressed: paths, HEAD, names of the model, unknown fields."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient
from http_tools import HELLO, ask, refusal
from hypothesis import given
from hypothesis import strategies as st

from outpace.errors import BadInputError
from outpace.server import ServerSettings, create_app
from outpace.server.paths import plain_path

BODY = {"messages": HELLO, "max_tokens": 3, "temperature": 0}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/v1/chat/completions/", "//v1//chat/completions"])
def test_one_endpoint_under_several_paths(server, path):
    assert server.post(path, json=BODY).json()["choices"] == ask(server, max_tokens=3).json()["choices"]


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/models", "/models/toy", "/v1/models/default/", "/metrics"])
def test_head_is_get_without_a_body(server, path):
    got, head = server.get(path), server.head(path)
    assert got.status_code == head.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]


def test_what_is_not_there_stays_away(server):
    for path in ("/v1/embeddings", "/embeddings"):
        assert "/v1/embeddings" in refusal(server.post(path, json={"input": "a"}), 404)["message"]
    assert server.post("/v1/v1/chat/completions", json=BODY).status_code == 404
    assert server.head("/nothing").status_code == 404


@given(st.text("/abv1", max_size=12))
def test_paths_are_plain_once_and_for_all(path):
    assert plain_path(plain_path("/" + path)) == plain_path("/" + path)


def test_a_mounted_application_has_the_same_paths(make_toy):
    from fastapi import FastAPI

    outer = FastAPI()
    outer.mount("/llm", create_app(make_toy()))
    with TestClient(outer) as client:
        assert client.post("/llm/v1/chat/completions/", json=BODY).status_code == 200
        assert client.get("/llm/models").status_code == 200


def test_the_model_has_the_names_it_is_served_under(make_toy):
    with TestClient(create_app(make_toy(), ServerSettings(served_model_names=("gpt-4o", "mine")))) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["gpt-4o", "mine"]
        for name in ("gpt-4o", "mine", "default"):
            assert ask(client, model=name).json()["model"] == "gpt-4o"
        assert client.post("/v1/responses", json={"model": "mine", "input": "a"}).json()["model"] == "gpt-4o"
        assert "'gpt-4o' or 'mine'" in refusal(ask(client, model="toy"), 404)["message"]
        assert client.get("/v1/models/mine").json()["id"] == "mine"


def test_tokens_become_text_again(server):
    tokens = server.post("/tokenize", json={"prompt": "abc xyz"}).json()["tokens"]
    assert server.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "abc xyz"}
    end = [*tokens, *server.llm.eos_token_ids]
    assert server.post("/detokenize", json={"tokens": end}).json() == {"prompt": "abc xyz<end>"}
    assert server.post("/detokenize", json={"tokens": end, "skip_special_tokens": True}).json() == {"prompt": "abc xyz"}
    assert refusal(server.post("/detokenize", json={"tokens": [999]}))["param"] == "tokens"


UNKNOWN = {"frobnicate": 1, "speculative": {"method": "none", "speed": 2}}
UNKNOWN |= {"messages": [{**HELLO[0], "mood": "good", "content": [{"type": "text", "text": "abc abc abc", "font": "serif"}]}]}


@pytest.mark.parametrize("mode", ["refuse", "warn", "ignore"])
def test_unknown_fields(make_toy, caplog, mode):
    with TestClient(create_app(make_toy(), ServerSettings(unknown_fields=mode))) as client, caplog.at_level(logging.WARNING, "outpace"):
        answer, plain = ask(client, **UNKNOWN), ask(client, speculative=False).json()
        if mode == "refuse":
            assert refusal(answer)["code"] == "unsupported_field"
        else:
            assert answer.json()["choices"] == plain["choices"]
            assert refusal(ask(client, **UNKNOWN, temperature="hot"))["param"] == "temperature"
            item = {"type": "function_call_output", "call_id": "a", "output": "b", "mood": 1}
            assert refusal(client.post("/v1/responses", json={"input": [item], "mood": 1}))["param"] == "messages.0.role"
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert bool(lines) == (mode == "warn")
    if lines:
        assert "frobnicate" in lines[0]
        assert "messages.0.content.0.font" in lines[0]
        assert "speculative.speed" in lines[0]


def test_settings_are_checked():
    for options in ({"unknown_fields": "maybe"}, {"served_model_names": ("a", " ")}):
        with pytest.raises(BadInputError):
            ServerSettings(**options)
