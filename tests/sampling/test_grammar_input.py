"""Forms that cannot be used are refused in one line, and compiled ones are kept within bounds."""

from __future__ import annotations

import json
import time

import pytest
from grammar_tools import END, FAST, FORMS, PERSON, VOCAB

from outpace.errors import BadInputError
from outpace.params import SamplingParams, StructuredOutput
from outpace.sampling import grammar
from outpace.sampling.grammar import MAX_CACHED, GrammarCompiler


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("yaml", "", "unknown structured output 'yaml'; known: json_object, json_schema, regex, choice"),
        ("json_object", "x", "takes no value"),
        ("json_schema", "{", "is not JSON"),
        ("json_schema", [1], "a JSON schema is an object, not list"),
        ("json_schema", {"a": {1, 2}}, "is not JSON"),
        ("json_schema", {"const": "x" * 70_000}, "at most 65536 are allowed"),
        ("regex", "", "takes a regular expression"),
        ("regex", 5, "takes a regular expression"),
        ("regex", "a" * 3000, "at most 2048 are allowed"),
        ("choice", [], "a list of non-empty texts"),
        ("choice", ["a", ""], "a list of non-empty texts"),
        ("choice", {"a": 1}, "a list of non-empty texts"),
    ],
)
def test_bad_forms_are_refused_when_they_are_built(kind, value, message):
    with pytest.raises(BadInputError, match=message):
        StructuredOutput(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("json_schema", {"type": "foo"}, "Invalid type: foo"),
        ("json_schema", {"not": {"type": "string"}}, "Unimplemented keys"),
        ("json_schema", {"$ref": "http://example.com/schema"}, "cannot use this json_schema"),
        ("json_schema", {"type": "integer", "minimum": 3, "maximum": 1}, "Unsatisfiable"),
        ("json_schema", '{"a":' * 3000 + "1" + "}" * 3000, "cannot use this json_schema|is not JSON"),
        ("json_schema", {"type": "string", "pattern": "[ab](cd{4}){3000}"}, "stands for 15001 characters with its counts; at most 10000"),
        ("json_schema", {"const": "\ud800"}, "cannot use this json_schema"),
        ("regex", "[a-z]+(", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", r"(a)\1", "backreferences are not supported"),
        ("regex", "a{100000}", "stands for 100000 characters"),
        ("regex", "((a{100}){100}){100}", "stands for 1000000 characters"),
        ("json_schema", {"pattern": "a{" + "1" * 5000 + "}"}, r"stands for \d{10,} characters"),
        ("json_schema", {"pattern": "(" * 5000 + "a" + "{999})" * 5000}, r"stands for \d{10,} characters"),
        ("json_schema", {"type": "string", "pattern": "{" + "9" * 65_000}, "stands for 65001 characters"),
        ("json_schema", {"type": "string", "pattern": "[" * 65_000}, "cannot use this json_schema"),
    ],
)
def test_forms_that_cannot_be_used_are_refused_at_submission(toy, kind, value, message):
    started = time.monotonic()
    with pytest.raises(BadInputError, match=message) as caught:
        toy.generate("ab", SamplingParams(structured=StructuredOutput(kind, value)))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 20
    assert not toy.engine.has_unfinished


def test_the_size_of_a_regular_expression_counts_its_repeats():
    sizes = {"abc": 3, r"\d{4}-\{{2}": 7, "[]{5}a]{3}": 3, "(ab|c){2,5}x*": 16, "((a{3}b){2,}c){2}": 18, "a{,5}": 5, "{x}": 3}
    assert {regex: grammar._expanded(regex) for regex in sizes} == sizes


def test_settings_that_contradict_a_form_are_refused():
    for options in ({"ignore_eos": True}, {"min_tokens": 3}):
        with pytest.raises(BadInputError, match="excludes ignore_eos and min_tokens"):
            SamplingParams(structured=FORMS["regex"], **options)
    with pytest.raises(BadInputError, match="must be a StructuredOutput, not dict"):
        SamplingParams(structured={"kind": "json_object"})


def test_models_that_cannot_have_structured_output_say_why(make_toy, monkeypatch):
    asked = SamplingParams(structured=FORMS["choice"])
    with pytest.raises(BadInputError, match="cannot use this model's tokenizer"):
        make_toy().generate("ab", asked)
    with pytest.raises(BadInputError, match="needs a model with an end token"):
        GrammarCompiler(FAST, len(VOCAB), frozenset()).processor(FORMS["choice"], frozenset())
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(BadInputError, match=r"pip install 'outpace\[grammar\]'"):
        GrammarCompiler(FAST, len(VOCAB), frozenset({END})).processor(FORMS["choice"], frozenset())


def test_compiled_grammars_are_kept_within_bounds(monkeypatch):
    compiler, compiled = GrammarCompiler(FAST, len(VOCAB), frozenset({END})), []
    make = GrammarCompiler._compile
    monkeypatch.setattr(GrammarCompiler, "_compile", lambda self, form: compiled.append(form) or make(self, form))
    for i in range(MAX_CACHED):
        compiler.processor(StructuredOutput("regex", f"a{{{i + 1}}}"), frozenset())
    first = StructuredOutput("regex", "a{1}")
    compiler.processor(first, frozenset())
    compiler.processor(StructuredOutput("regex", "b"), frozenset())  # the one not used for longest goes: a{2}
    compiler.processor(first, frozenset())
    assert len(compiled) == MAX_CACHED + 1
    compiler.processor(StructuredOutput("regex", "a{2}"), frozenset())
    assert len(compiled) == MAX_CACHED + 2
    assert len(compiler._compiled) == MAX_CACHED
    assert StructuredOutput("json_schema", PERSON) == StructuredOutput("json_schema", json.dumps(PERSON))
