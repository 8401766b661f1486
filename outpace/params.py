"""What a user asks for: sampling parameters and structured output."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outpace.arrays import Array
from outpace.errors import BadInputError

LogitsHook = Callable[[list[int], Array], Array]
MAX_STRUCTURED_SIZE = {"json_object": 0, "json_schema": 65_536, "regex": 2_048, "choice": 65_536}  # characters
_RANGES: dict[str, tuple[float, float]] = {  # inclusive bounds of the float parameters
    "temperature": (0.0, 100.0),
    "top_p": (1e-9, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-9, 1e9),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}


@dataclass(frozen=True)
class StructuredOutput:
    """The form an answer must have. `kind` says what `value` is:

    "json_object" nothing (any JSON object), "json_schema" a JSON schema (text or mapping; kept as text), "regex" a regular expression
    that the whole answer matches, "choice" a list of texts. Raises BadInputError on a wrong type or size; what the value *means* is
    judged when the request is submitted (`outpace.sampling.grammar`).
    """

    kind: str
    value: Any = ""

    def __post_init__(self) -> None:
        value = self.value
        if self.kind == "json_object" and value not in ("", None):
            raise BadInputError("structured output json_object takes no value")
        if self.kind == "json_schema":
            value = _schema_text(value)
        elif self.kind == "choice":
            value = (value,) if isinstance(value, str) else tuple(value if isinstance(value, (list, tuple)) else ())
            if not value or not all(isinstance(text, str) and text for text in value):
                raise BadInputError("structured output choice takes a list of non-empty texts")
        elif self.kind == "regex":
            if not isinstance(value, str) or not value:
                raise BadInputError(f"structured output regex takes a regular expression, not {value!r:.80}")
        elif self.kind != "json_object":
            raise BadInputError(f"unknown structured output {self.kind!r}; known: {', '.join(MAX_STRUCTURED_SIZE)}")
        size = len(value) if isinstance(value, str) else sum(map(len, value or ()))
        if size > MAX_STRUCTURED_SIZE[self.kind]:
            raise BadInputError(f"the {self.kind} has {size} characters; at most {MAX_STRUCTURED_SIZE[self.kind]} are allowed")
        object.__setattr__(self, "value", value or "")


def _schema_text(schema: Any) -> str:
    """A JSON schema as JSON text."""
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(parsed, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"the JSON schema is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise BadInputError(f"a JSON schema is an object, not {type(parsed).__name__}")
    return text


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. Names and meanings are vLLM's; temperature 0 (greedy) is the default.

    `logits_processors` are callables `(token_ids so far, logits [V]) -> logits [V]`; they see the path prefix of every
    draft node, so they must depend on nothing else. Raises BadInputError on any value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] | None = None
    min_tokens: int = 0
    max_tokens: int = 128
    stop: tuple[str, ...] | list[str] | str = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    logits_processors: tuple[LogitsHook, ...] = ()
    structured: StructuredOutput | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
                raise BadInputError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}")
        for name, least in (("top_k", -1), ("min_tokens", 0), ("max_tokens", 1)):
            if not _is_integer(getattr(self, name)) or getattr(self, name) < least:
                raise BadInputError(f"{name} must be an integer of at least {least}, not {getattr(self, name)!r}")
        if self.min_tokens > self.max_tokens:
            raise BadInputError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        if self.seed is not None and not (_is_integer(self.seed) and 0 <= self.seed < 2**63):
            raise BadInputError(f"seed must be an integer from 0 to 2**63 - 1, not {self.seed!r}")
        if self.logprobs is not None and not (_is_integer(self.logprobs) and 0 <= self.logprobs <= 100):
            raise BadInputError(f"logprobs must be an integer from 0 to 100, not {self.logprobs!r}")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(s, str) and s for s in stop):
            raise BadInputError("every stop string must be a non-empty string")
        if not all(_is_integer(token) and token >= 0 for token in self.stop_token_ids):
            raise BadInputError("every stop token id must be a non-negative integer")
        if any(math.isnan(bias) or bias == math.inf for bias in (self.logit_bias or {}).values()):
            raise BadInputError("every logit_bias must be a number or -inf")
        if self.structured is not None and not isinstance(self.structured, StructuredOutput):
            raise BadInputError(f"structured must be a StructuredOutput, not {type(self.structured).__name__}")
        if self.structured is not None and (self.ignore_eos or self.min_tokens):
            raise BadInputError("structured output decides when the answer ends: it excludes ignore_eos and min_tokens")
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))

    @property
    def is_greedy(self) -> bool:
        """Always the likeliest token; temperatures that float32 cannot divide by count as 0."""
        return self.temperature < 1e-5


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
