"""Forms that an answer must have: what `response_format`, or a forced call of a function, makes the engine enforce."""

from __future__ import annotations

import asyncio

from outpace.errors import BadInputError
from outpace.params import StructuredOutput
from outpace.sampling.grammar import GrammarCompiler
from outpace.server.api.protocol import ResponseFormat
from outpace.server.api_errors import ApiError, bad_input


def build_grammar(response_format: ResponseFormat | None) -> StructuredOutput | None:
    """What must hold for the answer, None for any text. `strict` changes nothing: a schema is always enforced. Raises ApiError (400)."""
    if response_format is None:
        return None
    kind, wrapped = response_format.type, response_format.json_schema
    if (kind == "json_schema") != (wrapped is not None):
        raise ApiError(400, "json_schema and the type 'json_schema' need each other", param="response_format.json_schema")
    if wrapped is None:
        return StructuredOutput(kind) if kind == "json_object" else None
    if wrapped.schema_ is None:
        raise ApiError(400, "a json_schema needs a schema", param="response_format.json_schema.schema")
    return schema_form(wrapped.schema_, "response_format")


def schema_form(schema: object, param: str) -> StructuredOutput:
    """The form that a JSON schema describes; `param` is the field it came in. Raises ApiError (400)."""
    try:
        return StructuredOutput("json_schema", schema)
    except BadInputError as error:
        raise bad_input(error, param) from error


async def check_grammar(grammars: GrammarCompiler, form: StructuredOutput | None, param: str) -> None:
    """Compile a form outside the engine's thread, which finds it ready then. Raises ApiError (400) for one that cannot be enforced."""
    if form is not None:
        try:
            await asyncio.to_thread(grammars.prepare, form)
        except BadInputError as error:
            raise bad_input(error, param) from error
