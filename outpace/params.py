"""What a user asks for: prompts, sampling parameters and structured output, checked and brought into one form."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.errors import BadInputError

LogitsHook = Callable[[list[int], Array], Array]
Prompt = str | Sequence[int]
MAX_STRUCTURED_SIZE = {"json_object": 0, "json_schema": 65_536, "regex": 2_048, "choice": 65_536, "lark": 524_288}  # characters
LARGEST_BIAS = 1e9  # from 3.4e38 on a logit would be infinite
_RANGES: dict[str, tuple[float, float]] = {  # inclusive bounds of the float parameters
    "temperature": (0.0, 100.0),
    "top_p": (1e-9, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-9, 1e9),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}
_INTEGERS: dict[str, tuple[int, float]] = {  # inclusive bounds of the integer parameters
    "top_k": (-1, math.inf),
    "min_tokens": (0, math.inf),
    "max_tokens": (1, math.inf),
    "n": (1, math.inf),
    "seed": (0, 2**63 - 1),
    "logprobs": (0, 100),
    "prompt_logprobs": (0, 100),
}
_BOOLEANS = ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output")
_OPTIONAL = ("seed", "logprobs", "prompt_logprobs")  # None means "not asked for"


@dataclass(frozen=True)
class StructuredOutput:
    """The form an answer must have. `kind` says what `value` is:

    "json_object" nothing (any JSON object), "json_schema" a JSON schema (text or mapping; kept as text), "regex" a regular expression
    that the whole answer matches, "choice" a list of texts, "lark" a grammar in llguidance's variant of Lark. Raises BadInputError for a
    wrong type or size; whether the value can be enforced is checked when the request is submitted (`outpace.sampling.grammar`).
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
        elif self.kind in ("regex", "lark"):
            if not isinstance(value, str) or not value:
                what = "regular expression" if self.kind == "regex" else "grammar"
                raise BadInputError(f"structured output {self.kind} takes a {what}, not {value!r:.80}")
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

    `n` answers are given to each prompt, with the seeds `seed`, `seed` + 1, ... `logits_processors` are callables
    `(token_ids so far, logits [V]) -> logits [V]`; they see the path prefix of every draft node, so they must depend on nothing else.
    `bad_words_ids`: sequences of token ids that the answer must not contain; `allowed_token_ids`: the only tokens it may have.
    NumPy scalars count as numbers. Raises BadInputError, which names the parameter, for any value of a wrong type or out of range.
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
    n: int = 1
    stop: tuple[str, ...] | list[str] | str | None = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    allowed_token_ids: tuple[int, ...] | list[int] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | list[list[int]] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logits_processors: tuple[LogitsHook, ...] = ()
    structured: StructuredOutput | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {name: _number(name, getattr(self, name), *bounds) for name, bounds in _RANGES.items()}
        for name, bounds in _INTEGERS.items():
            value = getattr(self, name)
            checked[name] = None if value is None and name in _OPTIONAL else _integer(name, value, *bounds)
        checked["stop"] = (self.stop,) if isinstance(self.stop, str) else _tuple("stop", self.stop)
        if not all(isinstance(text, str) and text for text in checked["stop"]):
            raise BadInputError(f"stop must be a non-empty string or a list of them, not {self.stop!r:.80}")
        for name in ("stop_token_ids", "allowed_token_ids"):
            checked[name] = tuple(_integer(name, token, 0) for token in _tuple(name, getattr(self, name)))
        checked["bad_words_ids"] = tuple(
            tuple(_integer("bad_words_ids", token, 0) for token in _tuple("bad_words_ids", word))
            for word in _tuple("bad_words_ids", self.bad_words_ids)
        )
        checked["logit_bias"] = _bias(self.logit_bias)
        checked |= {name: _bool(name, getattr(self, name)) for name in _BOOLEANS}
        checked["logits_processors"] = _tuple("logits_processors", self.logits_processors)
        if not all(callable(hook) for hook in checked["logits_processors"]):
            raise BadInputError("logits_processors must be a list of callables")
        if self.structured is not None and not isinstance(self.structured, StructuredOutput):
            raise BadInputError(f"structured must be a StructuredOutput, not {type(self.structured).__name__}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.min_tokens > self.max_tokens:
            raise BadInputError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        if self.seed is not None and self.seed + self.n > 2**63:
            raise BadInputError(f"seed {self.seed} leaves no room for {self.n} seeds below 2**63")
        if self.structured is not None and (self.ignore_eos or self.min_tokens):
            raise BadInputError("structured output decides when the answer ends: it excludes ignore_eos and min_tokens")

    @classmethod
    def of(cls, value: SamplingParams | Mapping[str, Any] | None) -> SamplingParams:
        """From a mapping of the parameters' names, or None for the defaults. Raises BadInputError."""
        if isinstance(value, SamplingParams):
            return value
        if value is None:
            return cls()
        if not isinstance(value, Mapping):
            raise BadInputError(f"sampling_params must be SamplingParams or a dict, not {type(value).__name__}")
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in value if name not in known]:
            raise BadInputError(f"sampling_params has no parameter {unknown[0]!r}; known: {', '.join(known)}")
        return cls(**value)

    @property
    def is_greedy(self) -> bool:
        """Always the likeliest token; temperatures that float32 cannot divide by count as 0."""
        return self.temperature < 1e-5


def sampling_params_of(value: Any, num_prompts: int) -> list[SamplingParams]:
    """The parameters of each prompt, from one SamplingParams or dict for all, or a list with one for each. Raises BadInputError."""
    if not isinstance(value, (list, tuple)):
        return [SamplingParams.of(value)] * num_prompts
    if len(value) != num_prompts:
        raise BadInputError(f"sampling_params has {len(value)} entries for {num_prompts} prompts")
    return [SamplingParams.of(entry) for entry in value]


def prompts_of(value: Any) -> list[Prompt]:
    """A list of prompts, from one prompt (a text or token ids) or a list of them. Raises BadInputError."""
    if isinstance(value, str):
        return [value]
    _check_list("prompts", value)
    if len(value) == 0:
        raise BadInputError("prompts is empty: there is no prompt")
    return [value] if isinstance(value[0], Integral) else list(value)


def conversations_of(value: Any) -> list[Any]:
    """A list of conversations, from one (a list of messages) or a list of them. Raises BadInputError; the messages are checked later."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Sequence):
        raise BadInputError("messages must be a list of dicts with 'role' and 'content', or a list of such lists")
    return [value] if not value or isinstance(value[0], Mapping) else list(value)


def token_ids_of(value: Any, name: str = "prompts") -> list[int]:
    """Token ids as Python integers; `name` is the parameter they came in. Raises BadInputError."""
    _check_list(name, value)
    for token in value:
        if not isinstance(token, Integral) or isinstance(token, bool):
            raise BadInputError(f"{name} must be a text or a list of token ids (integers), but one of them is {type(token).__name__}")
    return [int(token) for token in value]


def _check_list(name: str, value: Any) -> None:
    is_array = isinstance(value, np.ndarray) and value.ndim > 0
    if not is_array and (not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview))):
        raise BadInputError(f"{name} must be a text, a list of token ids or a list of prompts, not {type(value).__name__}")


def _number(name: str, value: Any, low: float, high: float) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise BadInputError(f"{name} must be a number from {low:g} to {high:g}, not {value!r:.80}")
    return float(value)


def _integer(name: str, value: Any, low: int, high: float = math.inf) -> int:
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise BadInputError(f"{name} must be an integer {bounds}, not {value!r:.80}")
    return int(value)


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise BadInputError(f"{name} must be True or False, not {value!r:.80}")
    return bool(value)


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    """A list of values; None means none."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        raise BadInputError(f"{name} must be a list, not {value!r:.80}")
    return tuple(value)


def _bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise BadInputError(f"logit_bias must be a dict of token id to number, not {value!r:.80}")
    for bias in value.values():
        is_number = isinstance(bias, Real) and not isinstance(bias, bool)
        if not is_number or not (bias == -math.inf or abs(bias) <= LARGEST_BIAS):
            raise BadInputError(f"logit_bias must have -inf or numbers up to {LARGEST_BIAS:g} as its values, not {bias!r:.80}")
    return {_integer("logit_bias", token, 0): float(bias) for token, bias in value.items()}
