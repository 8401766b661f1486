"""Calls whose arguments are written one by one, without JSON around them: types, limits, and what cannot be enforced."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from http_tools import ask, chunks, refusal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import scripted_llm

from outpace.server import create_app
from outpace.server.api.tools.argument_readers import FieldArguments
from outpace.server.api.tools.call_formats import CALL_FORMATS
from outpace.server.api.tools.field_schema import KINDS, kinds, unenforced

FIELD_FORMATS = [entry for entry in CALL_FORMATS if entry.fields is not None]
ITEM = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"], "additionalProperties": False}
SCHEMA = {
    "type": "object",
    "$defs": {"item": ITEM, "word": {"type": "string", "maxLength": 5}},
    "properties": {
        "text": {"type": "string", "maxLength": 20},
        "count": {"type": "integer"},
        "is_new": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
        "unit": {"enum": ["cm", "m", 7]},
        "word": {"$ref": "#/$defs/word"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "nothing": {"type": "null"},
    },
    "required": ["text"],
    "additionalProperties": False,
}


def tool(schema: dict, **more) -> dict:
    return {"type": "function", "function": {"name": "f", "parameters": schema, **more}}


def written(entry, fields: dict[str, str]) -> str:
    """A call of f with these values."""
    style = entry.styles[0]
    middle = "".join(f"{entry.fields.before}{name}{entry.fields.between}{value}{entry.fields.after}" for name, value in fields.items())
    return style.head("f") + middle + style.after


def called(monkeypatch, entry, fields: dict[str, str], schema: dict = SCHEMA, **options) -> dict:
    """The arguments of the call that the server finds when the model wants to say this."""
    llm = scripted_llm(monkeypatch, lambda _: written(entry, fields), entry.name)
    with TestClient(create_app(llm)) as client:
        answer = ask(client, **{"tools": [tool(schema)], "max_tokens": 600, **options}).json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    (call,) = answer["message"]["tool_calls"]
    return json.loads(call["function"]["arguments"])


@pytest.mark.parametrize("entry", FIELD_FORMATS, ids=lambda entry: entry.name)
def test_values_have_the_types_of_the_schema(monkeypatch, entry):
    fields = {
        "text": '5\n{"a": "ü"}\\',
        "count": "12",
        "is_new": "True",
        "note": "null",
        "unit": "7",
        "word": "true",
        "items": '[{"id": 1}, {"id": 2}]',
        "nothing": "None",
    }
    wanted = {
        "text": '5\n{"a": "ü"}\\',
        "count": 12,
        "is_new": True,
        "note": None,
        "unit": 7,
        "word": "true",
        "items": [{"id": 1}, {"id": 2}],
        "nothing": None,
    }
    assert called(monkeypatch, entry, fields) == wanted
    assert called(monkeypatch, entry, {"text": "", "is_new": "false"}) == {"text": "", "is_new": False}


@pytest.mark.parametrize("entry", FIELD_FORMATS, ids=lambda entry: entry.name)
def test_the_schema_is_enforced(monkeypatch, entry):
    """The model leaves a required argument out, and writes wrong types, lengths, choices and names."""
    for fields in ({"count": "many"}, {"text": "a", "word": "too long"}, {"text": "a", "unit": "km"}, {"text": "a", "other": "1"}):
        found = called(monkeypatch, entry, fields, tool_choice="required", parallel_tool_calls=False)
        assert found.keys() <= SCHEMA["properties"].keys()
        assert len(found["text"]) <= 20
        assert isinstance(found.get("count", 0), int)
        assert len(found.get("word", "")) <= 5
        assert found.get("unit", 7) in ("cm", "m", 7)


@pytest.mark.parametrize("entry", FIELD_FORMATS, ids=lambda entry: entry.name)
def test_arguments_that_the_schema_does_not_name(monkeypatch, entry):
    named = {"type": "object", "properties": {"text": {"type": "string"}, "texts": {"type": "integer"}}}  # "textual" begins like "text"
    fields = {"texts": "1", "textual": "word", "z": "[1, 2]"}
    assert called(monkeypatch, entry, fields, named) == {"texts": 1, "textual": "word", "z": [1, 2]}
    assert called(monkeypatch, entry, {"a": "2024-01-01", "b": "NaN"}, {"type": "object"}) == {"a": "2024-01-01", "b": "NaN"}
    assert called(monkeypatch, entry, {}, {"type": "object"}) == {}


@pytest.mark.parametrize("entry", FIELD_FORMATS, ids=lambda entry: entry.name)
def test_one_seed_one_call_in_tags(monkeypatch, entry):
    """The model wants a word that is too long, so the seed decides what it writes."""
    llm, found = scripted_llm(monkeypatch, lambda _: written(entry, {"text": "a", "word": "too long"}), entry.name), set()
    with TestClient(create_app(llm)) as client:
        for seed in (1, 2):
            options = {"tools": [tool(SCHEMA)], "max_tokens": 400, "temperature": 1.0, "seed": seed, "parallel_tool_calls": False}
            for speculative in (False, "prompt_lookup", "suffix+recycling"):
                answer = ask(client, **options, speculative=speculative).json()["choices"][0]
                found.add((seed, answer["message"]["tool_calls"][0]["function"]["arguments"], answer["finish_reason"]))
                pieces = [chunk["choices"][0] for chunk in chunks(ask(client, **options, speculative=speculative, stream=True))]
                parts = [part["function"]["arguments"] for piece in pieces for part in piece["delta"].get("tool_calls", ())]
                found.add((seed, "".join(parts), pieces[-1]["finish_reason"]))
    assert len(found) == 2


def test_a_call_in_tags_that_is_cut(monkeypatch):
    said = written(FIELD_FORMATS[0], {"text": "a long text"})
    llm = scripted_llm(monkeypatch, lambda _: said, FIELD_FORMATS[0].name)
    with TestClient(create_app(llm)) as client:
        answer = ask(client, tools=[tool(SCHEMA)], max_tokens=said.index("text\n")).json()["choices"][0]
    assert answer["finish_reason"] == "length"
    assert answer["message"]["tool_calls"][0]["function"]["arguments"] == '{"text": "a long '


def test_what_cannot_be_enforced_without_quotes(monkeypatch):
    dated = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}
    llm = scripted_llm(monkeypatch, lambda _: written(FIELD_FORMATS[0], {"day": "2024"}), FIELD_FORMATS[0].name)
    with TestClient(create_app(llm)) as client:
        error = refusal(ask(client, tools=[tool(dated, strict=True)]))
        assert error["param"] == "tools"
        assert "'format'" in error["message"]
        answer = ask(client, tools=[tool(dated)], max_tokens=300).json()["choices"][0]
        assert answer["message"]["tool_calls"][0]["function"]["arguments"] == '{"day": "2024"}'
        broken = {"type": "object", "properties": {"day": {"type": "string", "minLength": "a"}}}
        assert refusal(ask(client, tools=[tool(broken, strict=True)]))["param"] == "tools"
        assert ask(client, tools=[tool(broken)], max_tokens=300).status_code == 200


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({}, KINDS),
        (False, set()),
        ({"type": "number"}, {"number"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"enum": ["a", 1, None]}, {"string", "integer", "number", "null"}),
        ({"const": 1.5}, {"number"}),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/a"}]}, {"string", "array"}),
        ({"allOf": [{"type": ["string", "array"]}, {"$ref": "#/$defs/a"}]}, {"array"}),
        ({"$ref": "#/$defs/loop"}, KINDS),
        ({"$ref": "#/nowhere"}, KINDS),
    ],
)
def test_the_types_that_a_schema_allows(schema, wanted):
    root = {"$defs": {"a": {"type": "array"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert kinds(schema, root) == wanted


def test_references_that_meet_again_and_again_cost_no_more_than_their_parts():
    """10 ** 12 ways lead through these definitions; the last one is inside itself."""
    again = [{"anyOf": [{"$ref": f"#/$defs/d{number + 1}"}] * 10} for number in range(12)]
    root = {"$defs": {**{f"d{number}": part for number, part in enumerate(again)}, "d12": {"type": "null"}}}
    assert kinds({"$ref": "#/$defs/d0"}, root) == {"null"}
    root["$defs"]["d12"] = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/d12"}]}
    assert kinds({"$ref": "#/$defs/d0"}, root) == KINDS


def test_keywords_that_are_not_enforced():
    assert unenforced(SCHEMA) is None
    assert unenforced({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}}) is None
    assert unenforced({"type": "object", "anyOf": []}) == "anyOf"
    assert unenforced({"type": "object", "required": ["a"]}) == "required"
    assert unenforced({"type": "object", "properties": {"a": {"type": "string", "maxLength": 5000}}}) == "maxLength"


def test_a_value_that_is_too_deep_to_be_json_is_a_text():
    entry, deep = FIELD_FORMATS[0], "[" * 20_000 + "]" * 20_000
    text = written(entry, {"a": deep}).removeprefix(entry.styles[0].head("f"))
    found, _ = FieldArguments(entry.fields, entry.styles[0].after, {}).feed(text)
    assert json.loads(found) == {"a": deep}


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = st.one_of(
    TEXTS, st.integers(), st.booleans(), st.none(), st.lists(st.integers(), max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=2)
)
TYPES = {str: "string", int: "integer", bool: "boolean", type(None): "null", list: "array", dict: "object"}


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FIELD_FORMATS), st.lists(VALUES, max_size=4), st.lists(st.integers(0, 200), max_size=8))
@example(FIELD_FORMATS[0], ["\n</parameter>", "\n</param"], [20, 30, 31])
def test_arguments_are_read_as_they_were_written(entry, values, cuts):
    end = entry.fields.after
    values = [value for value in values if (_text(value) + end).find(end) == len(_text(value))]
    schema = {"properties": {f"a{number}": {"type": TYPES[type(value)]} for number, value in enumerate(values)}}
    fields = {f"a{number}": _text(value) for number, value in enumerate(values)}
    text = written(entry, fields).removeprefix(entry.styles[0].head("f"))
    reader, found, left = FieldArguments(entry.fields, entry.styles[0].after, schema), "", ""
    cuts = sorted(min(cut, len(text)) for cut in cuts)
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        part, left = reader.feed(left + text[start:end])
        found += part
    assert (reader.is_complete, left) == (True, entry.styles[0].after)
    assert json.loads(found) == {f"a{number}": value for number, value in enumerate(values)}
