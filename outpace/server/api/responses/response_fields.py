"""The request of POST /v1/responses, field by field, and the chat request that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from outpace.server.api.protocol import ANYTHING, ChatRequest, Function, Harmless, SamplingRequest, Short, Strict, TokenId
from outpace.server.api_errors import ApiError


class Part(Strict):
    """A part of a message."""

    harmless: ClassVar[Harmless] = {
        "annotations": ANYTHING,
        "logprobs": ANYTHING,
        "cache_control": ANYTHING,
        "prompt_cache_breakpoint": ANYTHING,
    }
    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(Strict):
    """A message of the conversation."""

    harmless: ClassVar[Harmless] = {"id": ANYTHING, "status": ANYTHING, "phase": ANYTHING}
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def as_chat(self) -> dict[str, Any]:
        """The message in the form of chat completions."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class InputCall(Strict):
    """A call that the model has made."""

    harmless: ClassVar[Harmless] = {"id": ANYTHING, "status": ANYTHING, "namespace": ANYTHING, "caller": ANYTHING}
    type: Literal["function_call"]
    call_id: Short
    name: Short
    arguments: str

    def as_chat(self) -> dict[str, Any]:
        """The call as a message of the assistant."""
        call = {"id": self.call_id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return {"role": "assistant", "tool_calls": [call]}


class InputResult(Strict):
    """The result of a call."""

    harmless: ClassVar[Harmless] = {"id": ANYTHING, "status": ANYTHING, "caller": ANYTHING}
    type: Literal["function_call_output"]
    call_id: Short
    output: str | list[Part]

    def as_chat(self) -> dict[str, Any]:
        """The result as a message of a tool."""
        text = self.output if isinstance(self.output, str) else "\n".join(part.text for part in self.output)
        return {"role": "tool", "tool_call_id": self.call_id, "content": text}


def _kind(item: Any) -> str:
    """The type of an input item; messages need not name theirs."""
    kind = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", "message")
    return kind if isinstance(kind, str) else "message"


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputResult, Tag("function_call_output")],
    Discriminator(_kind),
]


class ResponseTool(Function):
    """A function that the model may call."""

    type: Literal["function"]


class NamedFunction(Strict):
    """The function that must be called."""

    type: Literal["function"]
    name: Short


class TextForm(Strict):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: Short | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextSettings(Strict):
    """How the answer is written."""

    harmless: ClassVar[Harmless] = {"verbosity": ("medium",)}
    format: TextForm | None = None


class Reasoning(Strict):
    """Settings of models that reason; only the usual values are accepted."""

    harmless: ClassVar[Harmless] = {"effort": ("none",), "summary": ANYTHING, "generate_summary": ANYTHING}


class ResponseRequest(SamplingRequest):
    """POST /v1/responses."""

    harmless: ClassVar[Harmless] = SamplingRequest.harmless | {
        "background": (False,),
        "include": ([], ["reasoning.encrypted_content"]),
        "truncation": ("disabled",),
        "stream_options": ({}, {"include_obfuscation": False}),
    }
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    previous_response_id: Short | None = None
    store: bool | None = None
    metadata: Annotated[dict[str, Short], Field(max_length=16)] | None = None
    n: Literal[1] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=2**18)] | None = None

    def messages(self) -> list[dict[str, Any]]:
        """The new part of the conversation, in the form of chat completions; calls in a row are one message."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        found: list[dict[str, Any]] = []
        for message in (item.as_chat() for item in self.input):
            if "tool_calls" in message and found and found[-1]["role"] == "assistant":
                found[-1]["tool_calls"] = [*found[-1].get("tool_calls", ()), *message["tool_calls"]]
            else:
                found.append(message)
        return found

    def as_chat(self, history: Sequence[dict[str, Any]]) -> ChatRequest:
        """The same request to chat completions, behind `history`. Raises ApiError (400)."""
        fields: dict[str, Any] = self.model_dump(exclude_unset=True, by_alias=True, include=set(SamplingRequest.model_fields))
        system = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        fields |= {"messages": [*system, *history, *self.messages()], "max_tokens": self.max_output_tokens}
        fields |= {"parallel_tool_calls": self.parallel_tool_calls, "response_format": self._form()}
        if self.tools:
            fields["tools"] = [
                {"type": "function", "function": tool.model_dump(exclude_unset=True, exclude={"type"})} for tool in self.tools
            ]
        choice = self.tool_choice
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedFunction) else choice
        try:
            return ChatRequest.model_validate(fields)
        except ValidationError as error:
            raise ApiError(400, f"input: {error.errors()[0]['msg']}", param="input") from error

    def _form(self) -> dict[str, Any] | None:
        form = None if self.text is None else self.text.format
        if form is None or form.type != "json_schema":
            return None if form is None else {"type": form.type}
        if form.schema_ is None:
            raise ApiError(400, "a json_schema needs a schema", param="text.format.schema")
        return {"type": "json_schema", "json_schema": {"name": form.name or "answer", "schema": form.schema_, "strict": form.strict}}
