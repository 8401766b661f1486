"""How calls of functions are written by each family of models, enforced, and found in an answer."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from http_tools import ask, chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import FAMILIES, scripted_llm

from outpace.server import create_app
from outpace.server.api.chat_completions import whole_calls
from outpace.server.api.tools.call_formats import CALL_FORMATS, UNKNOWN, call_format
from outpace.server.api.tools.call_reader import CallReader

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
NUMBERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "add", "parameters": NUMBERS, "strict": True}},
    {"type": "function", "function": {"name": "add_all"}},
]
SCHEMAS = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in TOOLS}
PARIS, SUM = '{"city": "Pa\\"}ris"}', '{"a": 1, "b": -2.5}'
SPECIALS = {"mistral": ["[TOOL_CALLS]"], "mistral-spaced": ["[TOOL_CALLS]"], "mistral-args": ["[TOOL_CALLS]", "[ARGS]"]}
TAGS = ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
IN_TAGS = '<tool_call>\n<function=weather>\n<parameter=city>\nPa"}ris\n</parameter>\n</function>\n</tool_call>'
SUM_IN_TAGS = "<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n-2.5\n</parameter>\n</function>"
GLM_PARIS = '<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Pa"}ris</arg_value>\n</tool_call>'
GLM_SUM = "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n<arg_value>-2.5</arg_value>\n</tool_call>"
DENSE = GLM_PARIS.replace("\n", "") + GLM_SUM.replace("\n", "")
WRITTEN = [  # family, special tokens, the answer, its text, its number of calls
    ("hermes", [], f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>', None, 1),
    ("hermes", ["<tool_call>", "</tool_call>"], f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>', None, 1),
    (
        "hermes",
        [],
        f'I look.\n<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>\n'
        f'<tool_call>\n{{"name": "add", "arguments": {SUM}}}\n</tool_call>',
        "I look.",
        2,
    ),
    ("hermes", [], f'{{"name": "weather", "arguments": {PARIS}}}\n{{"name": "add", "arguments": {SUM}}}', None, 2),
    ("hermes", [], f'```json\n{{\n  "name": "weather",\n  "arguments": {PARIS.replace(": ", ":   ")}\n}}\n```', None, 1),
    ("llama3", [], f'{{"name": "weather", "parameters": {PARIS}}}; {{"name": "add", "parameters": {SUM}}}', None, 2),
    ("llama3", ["<|python_tag|>"], f'<|python_tag|>{{"name": "weather", "parameters": {PARIS}}}', None, 1),
    ("mistral", None, f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}}}, {{"name": "add", "arguments": {SUM}}}]', None, 2),
    ("mistral-spaced", None, f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}}}]', None, 1),
    ("mistral-args", None, f"Well: [TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]add[ARGS]{SUM}", "Well:", 2),
    ("qwen-tags", [], IN_TAGS, None, 1),
    ("qwen-tags", TAGS[:2], f"I look.\n\n{IN_TAGS}\n<tool_call>\n{SUM_IN_TAGS}\n</tool_call>", "I look.", 2),
    ("qwen-tags", [], "\n".join([IN_TAGS.split("\n", 1)[1].removesuffix("\n</tool_call>"), SUM_IN_TAGS]), None, 2),
    ("glm", [], f"Well:\n{GLM_PARIS}\n{GLM_SUM}", "Well:", 2),
    ("glm", TAGS, f"{GLM_PARIS}\n{GLM_SUM}", None, 2),
    ("glm-dense", [], DENSE, None, 2),
    ("glm-dense", TAGS, f"Well: {DENSE}", "Well:", 2),
]
TEXTS = ["hello", '{"name": "Alice", "age": 3}', "a < b <tool", "```json\n[1]\n```", "{", ""]


def read(reader: CallReader, pieces: list[str]) -> tuple[str, list]:
    text, parts = "", []
    for piece in pieces:
        plain, found = reader.feed(piece)
        text, parts = text + plain, parts + found
    return text + reader.finish(), [call["function"] for call in whole_calls(parts)]


@pytest.mark.parametrize(("family", "specials", "answer", "text", "count"), WRITTEN)
def test_calls_are_recognised_in_every_format(monkeypatch, family, specials, answer, text, count):
    llm = scripted_llm(monkeypatch, lambda _: answer, family, SPECIALS[family] if specials is None else specials)
    with TestClient(create_app(llm)) as client:
        found = ask(client, tools=TOOLS, max_tokens=400).json()["choices"][0]
        calls = [call["function"] for call in found["message"]["tool_calls"]]
        assert [call["name"] for call in calls] == ["weather", "add"][:count]
        assert [json.loads(call["arguments"]) for call in calls] == [json.loads(PARIS), json.loads(SUM)][:count]
        assert (found["message"]["content"], found["finish_reason"]) == (text, "tool_calls")
        ids = {call["id"] for call in found["message"]["tool_calls"]}
        assert len(ids) == count
        assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids) == family.startswith("mistral")
        pieces = [chunk["choices"][0] for chunk in chunks(ask(client, tools=TOOLS, max_tokens=400, stream=True))]
    parts = [part for piece in pieces for part in piece["delta"].get("tool_calls", ())]
    for index, call in enumerate(calls):
        own = [part["function"] for part in parts if part["index"] == index]
        assert own[0]["name"] == call["name"]
        assert "".join(part["arguments"] for part in own) == call["arguments"]
    assert "".join(piece["delta"].get("content") or "" for piece in pieces).rstrip() == (text or "")
    assert pieces[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("answer", TEXTS)
def test_other_answers_stay_text(monkeypatch, family, answer):
    llm = scripted_llm(monkeypatch, lambda _: answer, family, SPECIALS.get(family, []))
    tools = [tool for tool in TOOLS if "strict" not in tool["function"]]
    with TestClient(create_app(llm)) as client:
        found = ask(client, tools=tools, max_tokens=100).json()["choices"][0]
        assert (found["message"]["content"], found["finish_reason"]) == (answer, "stop")
        assert "tool_calls" not in found["message"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_finds_the_family(family):
    found = call_format(FAMILIES[family])
    assert (found or UNKNOWN).name == ("json" if family == "unknown" else family)


def test_formats_that_look_alike():
    assert call_format('<tool_call>\n<function=f>\n<parameter=a>\n "arguments"').name == "qwen-tags"
    assert call_format('<tool_call>f\n<arg_key>a</arg_key> "arguments"') is None
    assert call_format(None) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_answer_may_arrive_in_any_pieces(data):
    family, _, answer, *_ = data.draw(st.sampled_from(WRITTEN))
    answer = data.draw(st.sampled_from([answer, answer[: len(answer) // 2], *TEXTS]))
    found = next(entry for entry in CALL_FORMATS if entry.name == family)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=12)))
    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert read(CallReader(found, SCHEMAS), pieces) == read(CallReader(found, SCHEMAS), [answer])


def test_the_text_of_a_call_that_never_began_is_shown():
    hermes = CALL_FORMATS[0]
    assert read(CallReader(hermes, {"f": {}}), ['a <tool_call>\n{"name": "g", "argu']) == ('a <tool_call>\n{"name": "g", "argu', [])
    assert read(CallReader(hermes, {"f": {}}), ["a <tool_call"]) == ("a <tool_call", [])
    assert read(CallReader(hermes, {"f": {}}), ['a <tool_call>\n{"name": "f", "argu']) == ("a ", [])


def test_arguments_fit_their_schema_once_a_call_has_begun(monkeypatch):
    """The model wants a text, then two calls of one function, with arguments that the schemas forbid; and it does not name a tool."""
    for answer, name in (
        ('<tool_call>\n{"name": "add", "arguments": "1 and 2"}\n</tool_call>', "add"),
        ('<tool_call>\n{"name": "add", "arguments": {"a": "one", "b": 2}}\n</tool_call>', "add"),
        ('<tool_call>\n{"name": "sub", "arguments": {}}\n</tool_call>', None),
        ('{"name": "weather", "arguments": ["Paris"]}', "weather"),
    ):
        llm = scripted_llm(monkeypatch, lambda _, answer=answer: answer)
        with TestClient(create_app(llm)) as client:
            (call,) = ask(client, tools=TOOLS, max_tokens=400, parallel_tool_calls=False).json()["choices"][0]["message"]["tool_calls"]
            arguments = json.loads(call["function"]["arguments"])
            assert isinstance(arguments, dict)
            assert call["function"]["name"] == name or (name is None and call["function"]["name"] in ("weather", "add", "add_all"))
            if name == "add":
                assert all(isinstance(arguments[key], int | float) for key in "ab")
