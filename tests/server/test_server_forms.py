"""Structured answers, forced function calls and predictions, requested with the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import httpx2 as httpx
import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict
from server_tools import PERSON, asking, byte_llm

from outpace.errors import BadInputError
from outpace.params import MAX_STRUCTURED_SIZE
from outpace.sampling.grammar import GrammarProcessor

MESSAGES = [{"role": "user", "content": "abc abc abc"}]


@pytest.fixture
def client(monkeypatch) -> Iterator[OpenAI]:
    with asking(byte_llm(monkeypatch)) as client:
        yield client


@pytest.fixture
def speller(make_toy) -> Iterator[OpenAI]:
    """A toy whose tokens are letters."""
    with asking(make_toy(toy={"seed": 3})) as client:
        yield client


def ask(client: OpenAI, **options):
    defaults = {"model": "toy", "messages": MESSAGES, "max_completion_tokens": 200, "temperature": 0.8, "seed": 44}  # a long text
    return client.chat.completions.create(**{**defaults, **options})


def schema_form(schema, **options) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, **options}}


# ---- response_format


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_is_enforced_strict_or_not(client, strict):
    form = schema_form(PERSON, strict=strict)
    texts = set()
    for speculative in (False, "prompt_lookup", "suffix+recycling"):
        answer = ask(client, response_format=form, n=4, extra_body={"speculative": speculative})
        assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 4
        texts.add(tuple(choice.message.content for choice in answer.choices))
    (found,) = texts
    for text in found:
        jsonschema.validate(json.loads(text), PERSON)
    assert len(set(found)) > 1
    pieces = ask(client, response_format=form, stream=True)
    assert "".join(piece.choices[0].delta.content for piece in pieces) == found[0]


def test_the_clients_own_parser(client):
    class Event(BaseModel):
        model_config = ConfigDict(extra="forbid")
        kind: Literal["party", "talk"]
        day: Literal[1, 2, 3]

    parsed = client.chat.completions.parse(model="toy", messages=MESSAGES, response_format=Event, seed=2).choices[0].message.parsed
    assert isinstance(parsed, Event)


def test_any_json_object(client):
    choices = ask(client, response_format={"type": "json_object"}, n=12, max_completion_tokens=400).choices
    finished = [choice.message.content for choice in choices if choice.finish_reason == "stop"]
    assert finished
    assert all(isinstance(json.loads(text), dict) for text in finished)
    assert all(choice.message.content.startswith("{") for choice in choices)
    assert not ask(client, response_format={"type": "text"}).choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("form", "param"),
    [
        (schema_form({"type": "stirng"}), "response_format"),
        (schema_form({"$ref": "#/nowhere"}), "response_format"),
        (schema_form({"type": "string", "pattern": "("}), "response_format"),
        (schema_form({"type": "string", "pattern": "((a{99}){99}){99}"}), "response_format"),
        (schema_form({"not": {}}), "response_format"),
        (schema_form({"description": "a" * MAX_STRUCTURED_SIZE["json_schema"]}), "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strcit": True}}, "response_format.json_schema.strcit"),
        ({"type": "regex"}, "response_format.type"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_form_is_refused(client, form, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, response_format=form, stream=stream)
    assert caught.value.param == param
    assert "\n" not in caught.value.body["message"]


def test_many_forms_at_once(client):
    """They are compiled in several threads next to the engine's."""

    def answer(number: int) -> str:
        return ask(client, response_format=schema_form({"enum": [f"form {number}"]})).choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, range(80))) == [f'"form {number}"' for number in range(80)]


@pytest.mark.parametrize("depth", [20, 100, 400, 900, 5000, 100_000])
def test_a_deep_schema_is_nobodys_fault(client, depth):
    schema = '{"properties":{"a":' * depth + "{}" + "}}" * depth
    form = f'{{"type":"json_schema","json_schema":{{"name":"a","schema":{schema}}}}}'
    body = f'{{"messages":[{{"role":"user","content":"a"}}],"max_tokens":5,"response_format":{form}}}'
    response = httpx.post(f"{client.base_url}chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == (200 if depth == 20 else 400), response.text
    assert ask(client).choices


def test_what_a_form_excludes_is_refused(client):
    for fields in ({"min_tokens": 5}, {"ignore_eos": True}):
        with pytest.raises(openai.BadRequestError, match="structured output"):
            ask(client, response_format={"type": "json_object"}, extra_body=fields)


def test_a_grammar_that_fails_on_the_way_is_the_clients(client, monkeypatch):
    def commit(*_):
        raise BadInputError("the grammar failed: too complex")

    with monkeypatch.context() as patch:
        patch.setattr(GrammarProcessor, "commit", commit)
        with pytest.raises(openai.BadRequestError, match="too complex"):
            ask(client, response_format={"type": "json_object"})
        assert ask(client).choices[0].message.content


# ---- prediction


def steps(answer) -> int:
    return answer.speculative["num_steps"]


def test_a_prediction_saves_steps_and_changes_nothing(speller):
    plain = ask(speller, extra_body={"speculative": False})
    assert plain.usage.completion_tokens_details is None
    text = plain.choices[0].message.content
    old = text[:80] + "something else" + text[90:]
    predicted = ask(speller, prediction={"type": "content", "content": old})
    assert predicted.choices[0].message.content == text
    assert 3 * steps(predicted) < steps(plain)
    assert predicted.usage.prompt_tokens == plain.usage.prompt_tokens  # the model does not see it
    details = predicted.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 100
    assert 0 < details.rejected_prediction_tokens < 40
    parts = [{"type": "text", "text": old[:50]}, {"type": "text", "text": old[50:]}]
    assert ask(speller, prediction={"type": "content", "content": parts}).usage == predicted.usage
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *pieces, last = ask(speller, prediction={"type": "content", "content": old}, **options)
    assert "".join(piece.choices[0].delta.content for piece in pieces) == text
    assert last.usage == predicted.usage


@pytest.mark.parametrize("drafter", ["suffix+recycling", "prediction", "none", False])
def test_a_prediction_with_other_drafters(speller, drafter):
    text = ask(speller, extra_body={"speculative": False}).choices[0].message.content
    answer = ask(speller, prediction={"type": "content", "content": text}, extra_body={"speculative": drafter})
    assert answer.choices[0].message.content == text
    details = answer.usage.completion_tokens_details
    assert (details.accepted_prediction_tokens > 100) == (drafter not in ("none", False))
    assert details.rejected_prediction_tokens < 40


def test_a_prediction_of_several_answers_counts_for_each(speller):
    text = ask(speller).choices[0].message.content
    one, two = (ask(speller, n=n, prediction={"type": "content", "content": text}).usage for n in (1, 2))
    accepted = [usage.completion_tokens_details.accepted_prediction_tokens for usage in (one, two)]
    assert accepted[1] >= accepted[0] > 100
    assert two.completion_tokens_details.rejected_prediction_tokens > one.completion_tokens_details.rejected_prediction_tokens
    assert ask(speller, prediction={"type": "content", "content": ""}).usage.completion_tokens_details.accepted_prediction_tokens == 0


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ({"type": "content", "content": "a" * 401}, "prediction"),
        ({"type": "text", "content": "a"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "content", "content": []}, "prediction.content"),
        ({"type": "content", "content": [{"type": "image", "text": "a"}]}, "prediction.content.0.type"),
    ],
)
def test_a_wrong_prediction_is_refused(speller, prediction, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(speller, prediction=prediction)
    assert caught.value.param == param
