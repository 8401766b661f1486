"""Tools in requests: calls that the client requires, results that it sends back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import openai
import pytest
from fastapi.testclient import TestClient
from http_tools import HELLO, ask, refusal
from openai import OpenAI
from scripted import scripted_llm
from server_tools import NAMED, PERSON, TOOL, asking, byte_llm

from outpace.models.tokenizer import Tokenizer
from outpace.server import create_app

NOW = {"type": "function", "function": {"name": "now"}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}
OTHER = {"type": "function", "function": {**STRICT["function"], "name": "other"}}
CALL = '<tool_call>\n{"name": "add_person", "arguments": {"name": "Ada", "age": 36}}\n</tool_call>'


@pytest.fixture
def client(monkeypatch) -> Iterator[OpenAI]:
    with asking(byte_llm(monkeypatch)) as client:
        yield client


def create(client: OpenAI, **options):
    defaults = {"model": "toy", "messages": HELLO, "max_completion_tokens": 300, "temperature": 0.8, "seed": 1}
    return client.chat.completions.create(**{**defaults, **options})


# ---- calls that are required


@pytest.mark.parametrize(("choice", "reason"), [(NAMED, "stop"), ("required", "tool_calls")])
def test_a_call_that_is_required_is_made(client, choice, reason):
    answer = create(client, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False).choices[0]
    (call,) = answer.message.tool_calls
    assert (answer.message.content, answer.finish_reason, call.function.name) == (None, reason, "add_person")
    jsonschema.validate(json.loads(call.function.arguments), PERSON)
    options = {"model": "toy", "messages": HELLO, "max_completion_tokens": 300, "temperature": 0.8, "seed": 1}
    with client.chat.completions.stream(**options, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
    assert (streamed.finish_reason, streamed.message.content) == (reason, None)


def test_one_of_several_tools_is_called_as_often_as_allowed(client):
    for seed in range(4):
        answer = create(
            client, tools=[TOOL, NOW, STRICT | {"function": {**STRICT["function"], "name": "other"}}], tool_choice="required", seed=seed
        )
        calls = answer.choices[0].message.tool_calls
        if answer.choices[0].finish_reason == "tool_calls":
            assert 1 <= len(calls) <= 16
            for call in calls:
                schema = {"type": "object", "maxProperties": 0} if call.function.name == "now" else PERSON
                jsonschema.validate(json.loads(call.function.arguments), schema)
        one = create(client, tools=[TOOL, NOW], tool_choice="required", seed=seed, parallel_tool_calls=False).choices[0]
        assert len(one.message.tool_calls) == 1


@pytest.mark.parametrize("choice", [NAMED, "required"])
def test_one_seed_one_call(client, choice):
    calls = set()
    for speculative in (False, "prompt_lookup", "suffix+recycling", {"method": "recycling", "num_draft_tokens": 9}):
        answer = create(client, tools=[TOOL, NOW], tool_choice=choice, seed=5, extra_body={"speculative": speculative})
        calls.add(tuple((call.function.name, call.function.arguments) for call in answer.choices[0].message.tool_calls))
        if speculative:
            assert answer.speculative["num_accepted_tokens"] > 20  # forced tokens and drafts
    assert len(calls) == 1


@pytest.mark.parametrize("choice", [NAMED, "required", "auto"])
def test_a_call_that_is_cut_does_not_claim_to_be_complete(monkeypatch, choice):
    llm = scripted_llm(monkeypatch, lambda _: CALL)
    with TestClient(create_app(llm)) as server:
        options = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 200}
        whole = ask(server, **options).json()["choices"][0]
        arguments = whole["message"]["tool_calls"][0]["function"]["arguments"]
        assert (arguments, whole["finish_reason"]) == ('{"name": "Ada", "age": 36}', "stop" if choice == NAMED else "tool_calls")
        for cut, left in (({"stop": ["age"]}, '{"name": "Ada", "'), ({"max_tokens": CALL.index("da")}, '{"name": "A')):
            found = ask(server, **{**options, **cut}).json()["choices"][0]
            assert found["finish_reason"] == "length"
            assert found["message"]["tool_calls"][0]["function"]["arguments"] == left
        for cut in ({"stop": ["add_"]}, {"max_tokens": 14}):
            found = ask(server, **{**options, **cut}).json()["choices"][0]
            assert (found["finish_reason"], found["message"].get("tool_calls"), found["message"]["content"]) == ("length", None, "")


# ---- the conversation so far


def prompt_of(template: str, messages: list[dict], **fields) -> str:
    """What the model would be shown."""
    from outpace.server.api.chat_messages import as_messages
    from outpace.server.api.protocol import ChatRequest

    tokenizer = Tokenizer(None, template)
    tokenizer.encode = lambda text, **_: text  # type: ignore[method-assign, assignment, return-value]
    body = ChatRequest.model_validate({"messages": messages, **fields})
    return "".join(map(str, tokenizer.encode_chat(as_messages(tokenizer, body.messages))))


FUNCTION = {"name": "f", "arguments": '{"a": "ü"}'}
TURN = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": FUNCTION}]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sun"}
EACH_CALL = "{%% for m in messages %%}{%% for c in m.tool_calls %%}%s{%% endfor %%}{%% endfor %%}{# tools #}"


@pytest.mark.parametrize(
    ("template", "want"),
    [
        (EACH_CALL % "{{ c.function.arguments | tojson }}", '{"a": "ü"}'),
        (EACH_CALL % "{{ c.function.arguments }}", '{"a": "ü"}'),
        (EACH_CALL % "{{ '<' + c.function.arguments + '>' }}", '<{"a": "ü"}>'),
        (EACH_CALL % "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}", "a=ü"),
        ("{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].id }}{% endif %}{{ m.tool_call_id }}{% endfor %}", "call_1call_1"),
        (
            "{% for m in messages %}{{ (m.tool_calls[0].id if m.tool_calls else m.tool_call_id) | length }}{% endfor %}"
            "{# tools [TOOL_CALLS] #}",
            "99",
        ),
    ],
)
def test_calls_and_results_reach_any_template(template, want):
    assert prompt_of(template + "{# tools #}", [TURN, RESULT]) == want
    turn = {**TURN, "tool_calls": [{"function": {"name": "f", "arguments": {"a": "ü"}}, "id": "call_1", "index": 0, "extra": {}}]}
    assert prompt_of(template + "{# tools #}", [turn, RESULT]) == want


def test_a_template_without_ids_takes_results_by_their_order(monkeypatch):
    llm = byte_llm(monkeypatch)
    prompts = []
    submit = llm.submit_all
    llm.submit_all = lambda token_ids, *args, **options: (
        prompts.append(llm.tokenizer.decode(token_ids)) or submit(token_ids, *args, **options)
    )
    turn = {**TURN, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "weather"}}]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    with TestClient(create_app(llm)) as server:
        assert ask(server, tools=tools).status_code == 200
        assert ask(server, tools=tools, tool_choice="none").status_code == 200
        assert ask(server, tool_choice="auto").status_code == ask(server, tools=[], tool_choice="none").status_code == 200
        assert ask(server, messages=[*HELLO, turn, {**RESULT, "name": "weather"}]).status_code == 200
    assert prompts == ["weather abc abc abc ", *["abc abc abc "] * 3, "abc abc abc calls weather sun "]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({**TURN, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "messages.0.tool_calls.0.function.arguments"),
        ({**TURN, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}, "messages.0.tool_calls.0.function.arguments"),
        ({**TURN, "tool_calls": [{"function": {"arguments": "{}"}}]}, "messages.0.tool_calls.0.function.name"),
        ({**TURN, "role": "user", "tool_calls": []}, "messages.0.content"),
    ],
)
def test_a_broken_call_in_the_conversation_is_refused(monkeypatch, message, param):
    with TestClient(create_app(byte_llm(monkeypatch))) as server:
        assert refusal(ask(server, messages=[message, RESULT]))["param"] == param


def test_a_template_without_calls_is_told(server):
    assert refusal(ask(server, messages=[TURN, *HELLO]))["param"] == "messages.0.tool_calls"
    assert refusal(ask(server, messages=[RESULT]))["param"] == "messages.0.role"


# ---- with a format, and refusals


def test_an_answer_is_a_call_or_has_the_response_format(monkeypatch):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": PERSON}}
    for said, is_call in ((CALL, True), ('{"name": "Ada", "age": 36}', False)):
        with TestClient(create_app(scripted_llm(monkeypatch, lambda _, said=said: said))) as server:
            found = ask(server, tools=[NOW, TOOL], response_format=form, max_tokens=200).json()["choices"][0]
        calls = found["message"].get("tool_calls")
        assert (found["finish_reason"], bool(calls)) == ("tool_calls" if is_call else "stop", is_call)
        jsonschema.validate(json.loads(calls[0]["function"]["arguments"] if is_call else found["message"]["content"]), PERSON)


def test_a_schema_that_cannot_be_enforced_hinders_strict_functions_only(monkeypatch):
    odd = {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    calling = '<tool_call>\n{"name": "odd", "arguments": {"a": 1}}\n</tool_call>'
    with TestClient(create_app(scripted_llm(monkeypatch, lambda _: calling))) as server:
        tools = [TOOL, {"type": "function", "function": odd}]
        call = ask(server, tools=tools, max_tokens=200).json()["choices"][0]["message"]["tool_calls"][0]["function"]
        assert call == {"name": "odd", "arguments": '{"a": 1}'}
        error = refusal(ask(server, tools=[TOOL, {"type": "function", "function": {**odd, "strict": True}}]))
        assert error["param"] == "tools"
        assert "function odd" in error["message"]
        assert refusal(ask(server, tools=tools, tool_choice="required"))["param"] == "tools"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [STRICT]}, "tools"),  # this toy's format of calls is not known
        ({"tools": [NOW], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [TOOL, TOOL], "tool_choice": NAMED}, "tools"),
        ({"tool_choice": NAMED}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": NAMED, "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}], "tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}], "tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x-guidance": 5}}}], "tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name"),
    ],
)
def test_what_cannot_be_enforced_is_refused(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **options)
    assert caught.value.param == param


def test_a_function_without_parameters(client):
    now = {"type": "function", "function": {"name": "now"}}
    call = create(client, tools=[NOW, TOOL], tool_choice=now).choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("now", "{}")
    assert create(client, tools=[TOOL], tool_choice="auto").choices[0].message.tool_calls is None
