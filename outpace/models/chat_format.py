"""Chat templates: small Jinja programs that come with a model and turn a conversation into its text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from outpace.errors import BadInputError

Messages = Sequence[Mapping[str, Any]]


def render(template: str, messages: Messages, tools: Sequence[Mapping[str, Any]] | None, more: Mapping[str, Any], opens: bool) -> str:
    """The text of a conversation; `opens`: it ends with the start of the assistant's next message. `more`: further variables, such as the
    names of special tokens. Raises BadInputError.

    The arguments of `tool_calls` may be JSON texts, as OpenAI's API has them; templates get them as `ToolArguments`.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
    shown = [_with_arguments(message) for message in messages]
    values = {"messages": shown, "tools": tools, "documents": None, "add_generation_prompt": opens, **more}
    try:
        text: str = environment.from_string(template).render(values)
    except Exception as error:  # a template is a small program that may raise anything
        raise BadInputError(f"the chat template cannot render these messages: {error}") from error
    return text


def render_open_end(template: str, messages: Messages, tools: Sequence[Mapping[str, Any]] | None, more: Mapping[str, Any]) -> str:
    """The text of a conversation up to the end of the last message's content, which an answer then continues. Raises BadInputError."""
    content: str = messages[-1]["content"]
    text, core = render(template, messages, tools, more, opens=False), content.strip()
    at = text.rfind(core)
    if not core or at < 0:
        raise BadInputError("the last message cannot be continued: it is empty, or the chat template does not show its content")
    return text[: at + len(core)] + content[len(content.rstrip()) :]


class ToolArguments(dict[str, Any]):
    """The arguments of a call for a template: an object, which prints and concatenates as its JSON text."""

    def __str__(self) -> str:
        return _tojson(self)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


def _with_arguments(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with the arguments of its calls as objects. Raises BadInputError."""
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return message
    found = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and "arguments" in function:
            call = {**call, "function": {**function, "arguments": tool_arguments(function["arguments"])}}
        found.append(call)
    return {**message, "tool_calls": found}


def tool_arguments(value: Any) -> ToolArguments:
    """The arguments of a call, given as an object or as JSON text; no text means none. Raises BadInputError."""
    try:
        parsed = value if isinstance(value, Mapping) else json.loads(value or "{}")
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"the arguments of a tool call are not JSON: {error}") from error
    if not isinstance(parsed, Mapping):
        raise BadInputError(f"the arguments of a tool call are a JSON object, not {type(parsed).__name__}")
    return ToolArguments(parsed)


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's part for training; here it renders its content only."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)
