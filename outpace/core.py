"""The nouns every room shares: sampling parameters, a request, a draft, a verdict. Small data, no behaviour of any room."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from outpace.errors import BadInputError

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = np.ndarray

LogitsHook = Callable[[list[int], Array], Array]

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
    judged when the request is submitted (`outpace.grammar`).
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


MAX_STRUCTURED_SIZE = {"json_object": 0, "json_schema": 65_536, "regex": 2_048, "choice": 65_536}  # characters


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


@dataclass(frozen=True)
class Capabilities:
    """What a target can do, or what a drafter needs of it. Code branches on these, never on names."""

    tree: bool = False  # rows of one sequence may form a tree, not only a chain
    hidden: bool = False  # forward() also returns hidden states
    probes: bool = False  # rows that are never accepted may ride along
    exact_trees: bool = True  # a row's bits do not depend on where in the pass its ancestors stand
    vocab_size: int = 0
    max_len: int = 0  # longest sequence, in tokens
    num_vectors: int = 0  # vectors of helpers that probes may have as input; their ids follow those of the vocabulary


@dataclass(frozen=True)
class Draft:
    """Guesses for the next tokens, as a tree. Parents come before children; parent -1 is the last committed token.

    `probs` [N, V] float32 holds the distribution each node was drawn from, or None for a deterministic draft.
    The last `num_probes` nodes are never accepted: their outputs only reach `Drafter.observe`.
    `chances` [N]: how likely the drafter thinks each node is, given that its parent is right; None where it has no idea.
    `sources` [N]: the drafters that guessed each node, as "a" or "a+b"; None: the drafter the request runs with.
    """

    token_ids: Sequence[int] = ()
    parents: Sequence[int] = ()
    probs: Array | None = None
    num_probes: int = 0
    chances: Sequence[float] | None = None
    sources: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def chain(cls, token_ids: Sequence[int]) -> Draft:
        """A draft without branches."""
        return cls(token_ids, range(-1, len(token_ids) - 1))

    @property
    def is_chain(self) -> bool:
        return all(p == i - 1 for i, p in enumerate(self.parents))

    def children(self) -> dict[int, dict[int, int]]:
        """parent node -> {token: node}, without the probes; of equal siblings the first counts."""
        table: dict[int, dict[int, int]] = {}
        for node in range(len(self.token_ids) - self.num_probes):
            table.setdefault(self.parents[node], {}).setdefault(self.token_ids[node], node)
        return table


EMPTY_DRAFT = Draft()


@dataclass(frozen=True)
class Verdict:
    """What a verifier decided on a draft: the accepted nodes from the root down, and the model's own next token
    (the recovered token after a rejection, the bonus token after full acceptance)."""

    draft: Draft
    path: list[int]
    next_token: int


@dataclass(frozen=True)
class StepOutput:
    """What one engine step gave one request; token ids are already cut at the first stop or length limit.

    `sources[i]`: the drafter that guessed token i, "" if it is the model's own (recovered or bonus). `verdict` is the draft, pending
    tokens in front, and the path taken through it; None when the step failed.
    """

    request: Request
    token_ids: list[int]
    sources: list[str]
    finish_reason: str | None
    verdict: Verdict | None = None


@dataclass
class RequestStats:
    """Counters of one request, with vLLM's definitions: rates are derived, acceptance length counts the bonus token."""

    num_steps: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    num_rejected_prediction_tokens: int = 0  # written by the drafter `prediction`
    draft_seconds: float = 0.0
    added_at: float = field(default_factory=time.perf_counter)
    prefill_started_at: float = 0.0
    decode_started_at: float = 0.0
    finished_at: float = 0.0

    @property
    def prefill_seconds(self) -> float:
        return max(0.0, self.decode_started_at - self.prefill_started_at)

    @property
    def decode_seconds(self) -> float:
        return max(0.0, self.finished_at - self.decode_started_at)


class Sampler(Protocol):
    """How one request draws tokens (implemented in sampling.py). `path` = draft tokens between the last committed token and the row."""

    def draw(self, row: Array, path: Sequence[int], position: int) -> int: ...
    def probabilities(self, row: Array, path: Sequence[int]) -> Array: ...
    def uniform(self, position: int, draw: int) -> float: ...
    def commit(self, token_ids: Sequence[int]) -> None: ...
    def shape(self, draft: Draft, request: Request, budget: int, limit: int) -> Draft: ...


@dataclass(eq=False)
class Request:
    """One sequence being decoded. Invariant: the last token of `token_ids` has no K/V yet, all before it have once prefilled.

    `pending` are tokens that the last pass predicted on rows whose bits may differ from plain decoding's; they are not committed
    but lead the next draft. Drafters guess what follows `context`.

    `speculation` says how this request guesses and checks (a `controller.Speculation`); requests of one batch may differ.
    `memory_scope`: what drafters learn from this request may only serve requests of the same scope (a tenant, an API key).
    `prediction`: tokens the caller expects in the answer; drafters may look there, the model never sees them.
    `stop_check(token_id)` is told every committed token and answers whether a stop string is now complete.
    """

    id: str
    token_ids: list[int]
    params: SamplingParams
    sampler: Sampler
    speculation: Any
    stop_token_ids: frozenset[int] = frozenset()
    stop_check: Callable[[int], bool] | None = None
    num_prompt_tokens: int = 0
    slot: Any = None
    pending: list[int] = field(default_factory=list)
    pending_sources: list[str] = field(default_factory=list)  # the drafter that guessed each of them, "" for the model's own
    finish_reason: str | None = None
    error: Exception | None = None
    sources: list[str] = field(default_factory=list)  # of every output token, as in StepOutput
    memory_scope: str = ""
    prediction: Sequence[int] = ()
    proposal: Draft = EMPTY_DRAFT  # all that was guessed in this step, before the controller chose
    logprobs: list[dict[int, float]] | None = None
    stats: RequestStats = field(default_factory=RequestStats)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)
        if self.params.logprobs is not None:
            self.logprobs = []

    @property
    def context(self) -> list[int]:
        """The text as far as it is known, pending tokens included: what drafters continue. Not to be changed."""
        return [*self.token_ids, *self.pending] if self.pending else self.token_ids

    @property
    def from_draft(self) -> list[bool]:
        """Which output tokens were guesses that held."""
        return [bool(source) for source in self.sources]

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_tokens_left(self) -> int:
        return self.params.max_tokens - self.num_output_tokens

    @property
    def is_prefilling(self) -> bool:
        return bool(self.slot.num_cached < len(self.token_ids) - 1)
