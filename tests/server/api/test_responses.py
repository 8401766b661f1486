"""POST /v1/responses, by OpenAI's client: texts, streams, tools, conversations that the server keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from scripted import scripted_llm
from server_tools import asking

from outpace.server import ServerSettings, create_app
from outpace.server.api.responses.response_store import ResponseStore
from outpace.server.replicas.affinity import affinity_key, keeper_of

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
WEATHER = {"type": "function", "name": "weather", "description": "The weather.", "parameters": CITY, "strict": True}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def script(prompt: str) -> str:
    if '"role": "tool"' in prompt:
        return "It is sunny."
    if "weather" in prompt.lower():
        return f"I look.\n{CALL}"
    return f"answer {prompt.count('user')}"


@pytest.fixture
def client(monkeypatch) -> Iterator[OpenAI]:
    with asking(scripted_llm(monkeypatch, script)) as client:
        yield client


def test_a_text(client):
    answer = client.responses.create(model="default", input="hello", instructions="be kind", temperature=0, metadata={"a": "b"})
    assert (answer.status, answer.output_text, answer.instructions, answer.metadata) == ("completed", "answer 1", "be kind", {"a": "b"})
    assert answer.usage.input_tokens + answer.usage.output_tokens == answer.usage.total_tokens
    assert answer.usage.output_tokens == len("answer 1") + 1
    assert answer.speculative["drafter"] == "prompt_lookup"
    parts = [{"type": "input_text", "text": "hel"}, {"type": "input_text", "text": "lo"}]
    items = [
        {"role": "user", "content": parts},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    ]
    assert client.responses.create(model="default", input=[*items, items[0]]).output_text == "answer 2"


def test_a_stream_tells_everything(client):
    with client.responses.stream(model="default", input="the weather?", tools=[WEATHER]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-1] == "completed"
    message, call = final.output
    assert message.content[0].text.rstrip() == "I look."
    assert (call.name, call.arguments, call.status) == ("weather", '{"city": "Paris"}', "completed")
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(event.delta for event in deltas) == call.arguments
    assert {event.item_id for event in deltas} == {call.id}
    assert len(deltas) > 1
    whole = client.responses.create(model="default", input="the weather?", tools=[WEATHER])
    assert [item.type for item in whole.output] == ["message", "function_call"]
    assert whole.usage == final.usage


def test_a_tool_and_its_result_in_a_kept_conversation(client):
    first = client.responses.create(model="default", input="the weather?", tools=[WEATHER])
    result = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "sun"}
    second = client.responses.create(model="default", input=[result], tools=[WEATHER], previous_response_id=first.id)
    assert second.output_text == "It is sunny."
    by_hand = [{"role": "user", "content": "the weather?"}, *(item.model_dump(exclude_none=True) for item in first.output), result]
    assert client.responses.create(model="default", input=by_hand, tools=[WEATHER]).output_text == "It is sunny."
    assert client.responses.retrieve(second.id).output_text == "It is sunny."
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_required_call_and_a_form(client, choice):
    (call,) = client.responses.create(model="default", input="hello", tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False).output
    assert json.loads(call.arguments).keys() == {"city"}
    form = {"type": "json_schema", "name": "place", "schema": CITY, "strict": True}
    assert json.loads(client.responses.create(model="default", input="hello", text={"format": form}).output_text).keys() == {"city"}


def test_a_cut_answer_is_incomplete(client):
    answer = client.responses.create(model="default", input="hello", max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason, answer.output_text) == ("incomplete", "max_output_tokens", "ans")
    inside = client.responses.create(model="default", input="the weather?", tools=[WEATHER], max_output_tokens=60)
    assert (inside.status, inside.output[-1].status, inside.output[-1].type) == ("incomplete", "incomplete", "function_call")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "a", "previous_response_id": "resp_none"}, "previous_response_id"),
        ({"input": []}, "input"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "include": ["file_search_call.results"]}, "include"),
        ({"input": "a", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"input": "a", "truncation": "auto"}, "truncation"),
        ({"input": "a", "n": 2}, "n"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ],
)
def test_what_is_refused(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", body=fields, cast_to=object)
    assert caught.value.param == param


def test_responses_belong_to_their_key_and_are_kept_on_request(monkeypatch):
    app = create_app(scripted_llm(monkeypatch, script), ServerSettings(api_keys=("one", "two")))
    with TestClient(app) as server:

        def ask(key: str, **fields) -> tuple[int, dict]:
            response = server.post("/v1/responses", json={"input": "hello", **fields}, headers={"Authorization": f"Bearer {key}"})
            return response.status_code, response.json()

        kept, unkept = ask("one")[1]["id"], ask("one", store=False)[1]["id"]
        assert ask("one", previous_response_id=kept)[1]["output"][0]["content"][0]["text"] == "answer 2"
        assert ask("two", previous_response_id=kept)[0] == ask("one", previous_response_id=unkept)[0] == 400


def test_two_servers_with_one_address(monkeypatch):
    """What the ids say leads every follow-up to the server that has the conversation; the other one does not know it."""
    apps = {name: create_app(scripted_llm(monkeypatch, script)) for name in ("one", "two")}
    for name, app in apps.items():
        app.state.responses = ResponseStore(replica=name)
    with TestClient(apps["one"]) as one, TestClient(apps["two"]) as two:
        servers = {"one": one, "two": two}
        response = two.post("/v1/responses", json={"input": "hello"}).json()
        for number in (2, 3):
            fields = {"input": "and then?", "previous_response_id": response["id"]}
            keeper = keeper_of(affinity_key("/v1/responses", {}, json.dumps(fields).encode()))
            assert one.post("/v1/responses", json=fields).json()["error"]["code"] == "previous_response_not_found"
            response = servers[keeper].post("/v1/responses", json=fields).json()
            assert response["output"][0]["content"][0]["text"] == f"answer {number}"
        path = f"/v1/responses/{response['id']}"
        assert servers[keeper_of(affinity_key(path, {}, b""))].delete(path).json()["deleted"]


def test_the_store_forgets_the_oldest():
    store = ResponseStore(max_responses=3, max_characters=10_000)
    for number in range(5):
        store.add("", {"id": str(number)}, [])
    assert [number for number in "01234" if store.get("", number)] == ["2", "3", "4"]
    store.add("", {"id": "long"}, [{"content": "a" * 9_950}])
    assert list(store.found) == ["long"]
    store.add("", {"id": "too long"}, [{"content": "a" * 11_000}])
    assert not store.found
    assert store.size == 0
