"""Function calls. A call that the client requires is enforced: the answer is then the arguments, under the grammar of their schema.

With `auto` the model decides whether to call, in the text format it was trained on; such a call stays text.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from outpace.params import StructuredOutput
from outpace.server.api.protocol import ChatRequest, ToolChoice
from outpace.server.api.structured import schema_grammar
from outpace.server.api_errors import ApiError

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ForcedCall:
    """A call of `name` whose arguments follow `grammar`. is_required: the client said "required" and did not name the function."""

    name: str
    grammar: StructuredOutput
    is_required: bool

    def start(self, arguments: str) -> dict[str, Any]:
        """The call with its arguments, or with the beginning of them."""
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": {"name": self.name, "arguments": arguments}}


def read_tools(body: ChatRequest, has_tools: bool) -> tuple[list[dict[str, Any]] | None, ForcedCall | None]:
    """(tools for the chat template, the call to enforce). Raises ApiError (400) for what cannot be shown or enforced."""
    choice = body.tool_choice
    if choice is not None and not body.tools:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    if not body.tools or choice == "none":
        return None, None
    if not has_tools:
        raise ApiError(400, "this model's chat format has no tools", param="tools", code="unsupported_field")
    call = _forced(body)
    if call is None and any(tool.function.strict for tool in body.tools):
        raise ApiError(400, "a strict function needs a tool_choice that requires it: nothing else enforces its schema", param="tools")
    return [tool.model_dump(exclude_unset=True) for tool in body.tools], call


def _forced(body: ChatRequest) -> ForcedCall | None:
    choice, functions = body.tool_choice, [tool.function for tool in body.tools or ()]
    if isinstance(choice, ToolChoice):
        functions = [function for function in functions if function.name == choice.function.name]
        if len(functions) != 1:
            raise ApiError(400, f"tool_choice must name one of the tools, and {choice.function.name!r} is not", param="tool_choice")
    elif choice != "required":
        return None
    elif len(functions) > 1:
        raise ApiError(400, "tool_choice 'required' needs exactly one tool; of several, name the one to call", param="tool_choice")
    schema = NO_ARGUMENTS if functions[0].parameters is None else functions[0].parameters
    return ForcedCall(functions[0].name, schema_grammar(schema, "tools"), choice == "required")
