"""What the tools of a request mean for its answer: what the model is shown, what it must write, how calls are found in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.params import StructuredOutput
from outpace.server.api.protocol import ChatRequest, Function, ToolChoice
from outpace.server.api.tools.call_formats import UNKNOWN, call_format
from outpace.server.api.tools.call_grammar import CallRules, arguments_schema
from outpace.server.api.tools.call_reader import CallReader
from outpace.server.api.tools.field_schema import unenforced
from outpace.server.api_errors import ApiError, bad_input

ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class CallPlan:
    """The calls that an answer may have. `schemas`: of each function's arguments, as the client gave them. `is_named`: the client has named
    the function, so OpenAI's finish reason is "stop"."""

    rules: CallRules
    schemas: Mapping[str, Any]
    grammar: StructuredOutput
    shows_special: bool
    is_named: bool

    def reader(self) -> CallReader:
        """For one answer."""
        return CallReader(self.rules.call_format, self.schemas, self.rules.needs_call)


def shown_tools(body: ChatRequest, has_tools: bool) -> list[dict[str, Any]] | None:
    """The tools for the chat template. Raises ApiError (400)."""
    choice = body.tool_choice
    if choice not in (None, "none", "auto") and not body.tools:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    if not body.tools or choice == "none":
        return None
    if not has_tools:
        raise ApiError(400, "this model's chat format has no tools", param="tools", code="unsupported_field")
    return [tool.model_dump(exclude_unset=True) for tool in body.tools]


async def plan_calls(llm: LLM, body: ChatRequest, answer: Any) -> CallPlan | None:
    """The calls of an answer to a request with tools; None if the model's calls cannot be recognised, so that they stay text.

    `answer`: JSON schema of an answer without a call, None for free text. Raises ApiError (400) for what cannot be enforced.
    """
    choice, template = body.tool_choice, llm.tokenizer.chat_template
    is_forced = choice == "required" or isinstance(choice, ToolChoice)
    functions = _functions(body)
    found = call_format(template) or (UNKNOWN if is_forced else None)
    if found is None:
        if any(function.strict for function in functions.values()):
            raise ApiError(400, "this model's format of calls is not known: a strict function needs tool_choice 'required'", param="tools")
        return None
    if is_forced and answer is not None:
        raise ApiError(400, "an answer cannot be a function call and have a response_format", param="response_format")
    rules = CallRules(
        found,
        {name: _object_schema(function, is_forced) for name, function in functions.items()},
        {},
        llm.eos_token_ids,
        is_forced,
        body.parallel_tool_calls is not False and not isinstance(choice, ToolChoice),
        answer,
    )
    if not rules.styles:
        raise ApiError(400, "this model's calls and a response_format cannot be told apart", param="response_format")
    shows_special = any(llm.tokenizer.special_id(style.trigger) is not None for style in rules.styles if style.trigger)
    schemas = rules.functions
    rules, grammar = await asyncio.to_thread(_compiled, llm, rules, functions)
    return CallPlan(rules, schemas, grammar, shows_special, isinstance(choice, ToolChoice))


def _functions(body: ChatRequest) -> dict[str, Function]:
    """The functions that may be called, by name. Raises ApiError (400)."""
    functions = [tool.function for tool in body.tools or ()]
    found = {function.name: function for function in functions}
    if len(found) < len(functions):
        raise ApiError(400, "two tools have the same name", param="tools")
    if not isinstance(body.tool_choice, ToolChoice):
        return found
    name = body.tool_choice.function.name
    if name not in found:
        raise ApiError(400, f"tool_choice must name one of the tools, and {name!r} is not", param="tool_choice")
    return {name: found[name]}


def _compiled(llm: LLM, rules: CallRules, functions: Mapping[str, Function]) -> tuple[CallRules, StructuredOutput]:
    """The rules and their grammar, which the compiler now has. A schema that cannot be enforced becomes "any object", unless the function
    is strict or has to be called: then ApiError (400)."""
    try:
        rules = replace(rules, specials=llm.grammars.specials())
        if rules.call_format.fields is not None:
            _check_fields(llm, rules.functions, functions)
        return rules, _prepared(llm, rules.grammar())
    except BadInputError as error:
        schemas = {name: _enforceable(llm, schema, functions[name], rules.needs_call) for name, schema in rules.functions.items()}
        if schemas == rules.functions:  # each of them can be enforced, all together cannot
            if rules.needs_call or any(function.strict for function in functions.values()):
                raise bad_input(error, "tools") from error
            schemas = dict.fromkeys(schemas, ANY_OBJECT)
    rules = replace(rules, functions=schemas)
    try:
        return rules, _prepared(llm, rules.grammar())
    except BadInputError as error:
        raise bad_input(error, "tools") from error


def _check_fields(llm: LLM, schemas: Mapping[str, Any], functions: Mapping[str, Function]) -> None:
    """Raise BadInputError for wrong schemas, and for strict ones that arguments without quotes cannot fit with certainty."""
    for name, schema in schemas.items():
        _prepared(llm, StructuredOutput("json_schema", schema))
        if functions[name].strict and (keyword := unenforced(schema)) is not None:
            raise BadInputError(f"function {name}: {keyword!r} cannot be enforced in this model's format of calls, so it cannot be strict")


def _prepared(llm: LLM, grammar: StructuredOutput) -> StructuredOutput:
    llm.grammars.prepare(grammar)
    return grammar


def _object_schema(function: Function, is_forced: bool) -> Any:
    """The schema of a function's arguments. Raises ApiError (400)."""
    schema = arguments_schema(function.parameters)
    if schema["type"] == "object":
        return schema
    if function.strict or is_forced:
        raise ApiError(400, f"function {function.name}: its parameters must be an object", param="tools")
    return ANY_OBJECT


def _enforceable(llm: LLM, schema: Any, function: Function, is_forced: bool) -> Any:
    """The schema, or "any object" in its place. Raises ApiError (400)."""
    try:
        _prepared(llm, StructuredOutput("json_schema", schema))
    except BadInputError as error:
        if function.strict or is_forced:
            raise bad_input(BadInputError(f"function {function.name}: {error}"), "tools") from error
        return ANY_OBJECT
    return schema
