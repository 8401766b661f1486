"""The requests, field by field. Every field is either applied or rejected; unknown fields are rejected.

Accepted although nothing reads them: fields that cannot change the answer (`user`, `safety_identifier`, `metadata`, `prompt_cache_key`, and
those in `harmless`), most of them only with the value that means "as usual".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_SPEC_LENGTH = 200

Short = Annotated[str, Field(max_length=512)]
Stop = Annotated[str, Field(max_length=256)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
NUM_DRAFT_TOKENS = AliasChoices("num_draft_tokens", "num_speculative_tokens")  # the second is vLLM's
TemplateName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]  # a variable of chat templates
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


Harmless = dict[str, tuple[Any, ...]]
ANYTHING: tuple[Any, ...] = ()  # every value of a field


class Strict(BaseModel):
    """No unknown fields, no type conversion, no NaN; null means absent. `harmless`: further fields, each with the values that cannot
    change the answer."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    harmless: ClassVar[Harmless] = {}

    @model_validator(mode="before")
    @classmethod
    def drop_harmless(cls, data: Any) -> Any:
        """The fields without those that change nothing."""
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None and not cls._is_harmless(key, value)}

    @classmethod
    def _is_harmless(cls, key: str, value: Any) -> bool:
        values = cls.harmless.get(key)
        return values is not None and (values == ANYTHING or value in values)


class SpeculativeRequest(Strict):
    """How to speculate for this request. `sources` asks for the drafter of each token, `trace` for the draft of each step."""

    method: Annotated[str, Field(max_length=MAX_SPEC_LENGTH)] | None = None
    num_draft_tokens: Annotated[int, Field(ge=0, le=64)] | None = Field(None, validation_alias=NUM_DRAFT_TOKENS)
    verifier: Annotated[str, Field(max_length=MAX_SPEC_LENGTH)] | None = None
    trace: bool = False
    sources: bool = False


class StreamOptions(Strict):
    """`include_usage`: a further chunk with the token counts before the end."""

    include_usage: bool = False
    harmless: ClassVar[Harmless] = {"include_obfuscation": (False,), "continuous_usage_stats": (False,)}


class SamplingRequest(Strict):
    """What chat and text completion share. From vLLM: `top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `ignore_eos`, `bad_words`,
    `allowed_token_ids`, `stop_token_ids`, `include_stop_str_in_output`, `skip_special_tokens`."""

    harmless: ClassVar[Harmless] = {
        "service_tier": ("auto", "default"),
        "prompt_cache_retention": ANYTHING,
        "request_id": ANYTHING,
        "priority": (0,),
        "cache_prompt": (True,),
        "detokenize": (True,),
        "spaces_between_special_tokens": (True,),
        "return_tokens_as_token_ids": (False,),
        "return_token_ids": (False,),
        "use_beam_search": (False,),
        "length_penalty": (1,),
        "early_stopping": (False,),
    }

    model: Short | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    bad_words: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=256)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=2**18)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    speculative: bool | Annotated[str, Field(max_length=MAX_SPEC_LENGTH)] | SpeculativeRequest | None = None
    user: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None


class TextPart(Strict):
    """A part of a message; parts are joined by line breaks."""

    harmless: ClassVar[Harmless] = {"cache_control": ANYTHING, "annotations": ANYTHING, "provider_specific_fields": ANYTHING}
    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    """The function of a call; its arguments are JSON text, or an object."""

    name: Short
    arguments: str | dict[str, Any] = ""


class ToolCall(Strict):
    """A call in the conversation so far. Further fields are accepted: the model sees the function, its arguments and perhaps the id."""

    model_config = ConfigDict(extra="ignore")
    function: CalledFunction
    id: Short | None = None
    type: Literal["function"] = "function"


class Message(Strict):
    """One message. `tool_calls` need a chat template that shows them to the model; results of tools are matched by their order."""

    harmless: ClassVar[Harmless] = {
        "annotations": ANYTHING,
        "cache_control": ANYTHING,
        "provider_specific_fields": ANYTHING,
        "id": ANYTHING,
        "status": ANYTHING,
        "refusal": ("",),
    }
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Short | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Short | None = None
    reasoning_content: str | None = Field(None, validation_alias=AliasChoices("reasoning_content", "reasoning"))
    prefix: bool | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        parts = self.content or ""
        return parts if isinstance(parts, str) else "\n".join(part.text for part in parts)


class Function(Strict):
    """A function that the model may call. `strict: true`: calls are refused if the schema of its parameters cannot be enforced."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that the chat template shows to the model."""

    harmless: ClassVar[Harmless] = {"cache_control": ANYTHING}
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
    """POST /v1/chat/completions. From vLLM: `add_generation_prompt`, `continue_final_message`, `chat_template_kwargs`; a last
    message with DeepSeek's and Mistral's `prefix: true` is continued, too."""

    harmless: ClassVar[Harmless] = SamplingRequest.harmless | {
        "verbosity": ("medium",),
        "reasoning_effort": ("none",),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "add_special_tokens": (False,),
        "echo": (False,),
        "store": (False,),
        "modalities": (["text"],),
    }
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Annotated[dict[TemplateName, bool | int | float | Short], Field(max_length=16)] | None = None
    metadata: Annotated[dict[str, Short], Field(max_length=16)] | None = None


Tokens = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(SamplingRequest):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=64)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=64)]
    )
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    suffix: str | None = None


class TokenizeRequest(Strict):
    """POST /tokenize: a text, or a conversation in the model's chat format."""

    model: Short | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Strict):
    """POST /detokenize: the text of tokens, by default with special tokens."""

    model: Short | None = None
    tokens: Annotated[list[TokenId], Field(max_length=2**20)]
    skip_special_tokens: bool = False
