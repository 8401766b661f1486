"""The requests, field by field. Every field is either applied or rejected; unknown fields are rejected.

Fields that are accepted because they cannot change the answer: `user`, `safety_identifier`, `metadata`, `prompt_cache_key` (the prefix
cache needs no key), `store: false`, `service_tier: auto|default`, `modalities: ["text"]`, `parallel_tool_calls: true`,
`stream_options.include_obfuscation: false`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_SPEC_LENGTH = 200

Short = Annotated[str, Field(max_length=512)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class Strict(BaseModel):
    """No unknown fields, no type conversion, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class SpeculativeRequest(Strict):
    """How to speculate for this request. `sources` asks for the drafter of each token, `trace` for the draft of each step."""

    method: Annotated[str, Field(max_length=MAX_SPEC_LENGTH)] | None = None
    num_draft_tokens: Annotated[int, Field(ge=0, le=64)] | None = None
    verifier: Annotated[str, Field(max_length=MAX_SPEC_LENGTH)] | None = None
    trace: bool = False
    sources: bool = False


class StreamOptions(Strict):
    """`include_usage`: a further chunk with the token counts before the end."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class SamplingRequest(Strict):
    """What chat and text completion share. From vLLM: `top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `ignore_eos`,
    `stop_token_ids`."""

    model: Short | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    speculative: bool | Annotated[str, Field(max_length=MAX_SPEC_LENGTH)] | SpeculativeRequest | None = None
    user: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    service_tier: Literal["auto", "default"] | None = None


class TextPart(Strict):
    """A part of a message; parts are joined by line breaks."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One message. `name`, `tool_calls` and `tool_call_id` need a chat template that shows them to the model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None = None
    name: Short | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_call_id: Short | None = None
    refusal: None = None  # clients that send answers back as history include these
    annotations: None = None
    audio: None = None
    function_call: None = None


class Function(Strict):
    """A function the model may ask for. `strict: true` needs a tool_choice that enforces it."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that the chat template shows to the model."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """The name of a function."""

    name: Short


class ToolChoice(Strict):
    """The function that must be called."""

    type: Literal["function"]
    function: FunctionName


class Prediction(Strict):
    """The expected answer; the parts of a list are concatenated. It makes the answer faster and never changes it."""

    type: Literal["content"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class JsonSchema(Strict):
    """OpenAI's wrapper of a JSON schema."""

    name: Short
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(SamplingRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: Literal[True] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    metadata: Annotated[dict[str, Short], Field(max_length=16)] | None = None
    store: Literal[False] | None = None


Tokens = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(SamplingRequest):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=64)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=64)]
    )
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    suffix: Literal[""] | None = None


class TokenizeRequest(Strict):
    """POST /tokenize: a text, or a conversation in the model's chat format."""

    model: Short | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False
