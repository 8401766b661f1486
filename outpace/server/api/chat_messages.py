"""From the messages of a request to the conversation that chat templates expect."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from outpace.errors import BadInputError
from outpace.models.chat_format import tool_arguments
from outpace.models.tokenizer import Tokenizer
from outpace.server.api.protocol import Message
from outpace.server.api.tools.call_formats import call_format
from outpace.server.api_errors import ApiError, bad_input


def as_messages(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation for the chat template. Raises ApiError (400) for calls and results that the model's template would drop."""
    return [_plain(tokenizer, number, message) for number, message in enumerate(messages)]


def continues_last(messages: Sequence[Message], continue_final: bool | None, add_prompt: bool | None) -> bool:
    """Whether the answer continues the last message. Raises ApiError (400) where that is impossible or contradicts another field."""
    is_prefix = any(message.prefix for message in messages)
    if not continue_final and not is_prefix:
        return False
    if add_prompt:
        raise ApiError(400, "add_generation_prompt excludes continuing the last message", param="add_generation_prompt")
    if messages[-1].role != "assistant" or any(message.prefix for message in messages[:-1]):
        raise ApiError(400, "only a last message of the assistant can be continued", param=f"messages.{len(messages) - 1}")
    return True


def _plain(tokenizer: Tokenizer, number: int, message: Message) -> dict[str, Any]:
    """One message. `name` and `tool_call_id` are there for templates that read them; the order of the results says as much."""
    template, place = tokenizer.chat_template or "", f"messages.{number}"
    if message.content is None and not message.tool_calls and message.role in ("system", "developer", "user"):
        raise ApiError(400, "a message needs content", param=f"{place}.content")
    if message.role == "tool" and not tokenizer.has_tools:
        raise ApiError(400, "this model's chat format has no tools", param=f"{place}.role")
    plain: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.name is not None:
        plain["name"] = message.name
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    length = getattr(call_format(template), "id_length", None)
    if message.tool_call_id is not None:
        plain["tool_call_id"] = _fitting_id(message.tool_call_id, length)
    if message.tool_calls:
        if not re.search(r"\btool_calls\b", template):
            raise ApiError(400, "this model's chat format has no place for 'tool_calls'", param=f"{place}.tool_calls")
        plain["tool_calls"] = [_call(message, at, length, place) for at in range(len(message.tool_calls))]
    return plain


def _call(message: Message, at: int, id_length: int | None, place: str) -> dict[str, Any]:
    """A call with its arguments as an object."""
    call = (message.tool_calls or [])[at]
    try:
        arguments = tool_arguments(call.function.arguments)
    except BadInputError as error:
        raise bad_input(error, f"{place}.tool_calls.{at}.function.arguments") from error
    found: dict[str, Any] = {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    if call.id is not None:
        found["id"] = _fitting_id(call.id, id_length)
    return found


def _fitting_id(call_id: str, length: int | None) -> str:
    """The id, or one of `length` made from it, for templates that insist on a length."""
    if length is None or (len(call_id) == length and call_id.isalnum()):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:length]
