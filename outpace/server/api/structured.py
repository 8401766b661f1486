"""Grammars that the engine enforces for a `response_format` or a forced function call."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from outpace.errors import BadInputError
from outpace.params import StructuredOutput
from outpace.sampling.grammar import GrammarCompiler
from outpace.server.api.protocol import ResponseFormat
from outpace.server.api_errors import ApiError, bad_input


def build_grammar(response_format: ResponseFormat | None) -> StructuredOutput | None:
    """The grammar of a `response_format`, None for free text. A schema is always enforced, `strict` or not. Raises ApiError (400)."""
    if response_format is None:
        return None
    kind, wrapped = response_format.type, response_format.json_schema
    if (kind == "json_schema") != (wrapped is not None):
        raise ApiError(400, "json_schema and the type 'json_schema' require each other", param="response_format.json_schema")
    if wrapped is None:
        return StructuredOutput(kind) if kind == "json_object" else None
    if wrapped.schema_ is None:
        raise ApiError(400, "a json_schema needs a schema", param="response_format.json_schema.schema")
    return schema_grammar(wrapped.schema_, "response_format")


def schema_grammar(schema: object, param: str) -> StructuredOutput:
    """The grammar of a JSON schema; `param` is the field that holds it. Raises ApiError (400)."""
    try:
        return StructuredOutput("json_schema", schema)
    except BadInputError as error:
        raise bad_input(error, param) from error


def answer_schema(form: StructuredOutput | None) -> Any:
    """The JSON schema of such an answer, None for free text."""
    if form is None:
        return None
    return {"type": "object"} if form.kind == "json_object" else json.loads(form.value)


async def check_grammar(grammars: GrammarCompiler, grammar: StructuredOutput | None, param: str) -> None:
    """Compile a grammar outside the engine's thread, which then finds it compiled. Raises ApiError (400) if it cannot be enforced."""
    if grammar is not None:
        try:
            await asyncio.to_thread(grammars.prepare, grammar)
        except BadInputError as error:
            raise bad_input(error, param) from error
