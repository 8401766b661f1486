"""One request: its tokens, its settings and its state while it is decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from outpace.arrays import Array
from outpace.params import SamplingParams
from outpace.tree.draft import Draft, Verdict
from outpace.tree.segment import Drawing, Slot
from outpace.tree.unconfirmed import NONE_UNCONFIRMED, Unconfirmed

if TYPE_CHECKING:
    from outpace.controller.strategy import Strategy


@dataclass(frozen=True)
class StepOutput:
    """What one engine step gave one request; token ids are already cut at the first stop or length limit.

    `sources[i]`: the drafter that guessed token i, "" if it is the model's own (recovered or bonus). `verdict` is the draft, pending
    tokens in front, and the path taken through it; None when the step failed. `num_drafted`: draft tokens that could be accepted.
    """

    request: Request
    token_ids: list[int]
    sources: list[str]
    finish_reason: str | None
    verdict: Verdict | None = None
    num_drafted: int = 0

    @property
    def num_accepted(self) -> int:
        """Draft tokens that the verifier accepted in this step. Unconfirmed tokens of the step before are not counted, nor what lies behind
        the end of the answer; those on a side branch count here, although they are delivered in the next step."""
        if self.verdict is None:
            return 0
        draft, path = self.verdict.draft, self.verdict.path
        num_unconfirmed = len(draft) - draft.num_lookahead - self.num_drafted
        kept = len(path) if self.finish_reason is None else min(len(path), len(self.token_ids))
        return max(0, kept - num_unconfirmed)


@dataclass
class RequestStats:
    """Counters of one request, with vLLM's definitions: rates are derived, acceptance length counts the bonus token."""

    num_steps: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    num_preemptions: int = 0  # times that the request gave its place in the K/V cache to an older one
    drafter_error: str | None = None  # why the request went on without its drafter
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

    @property
    def drawing(self) -> Drawing | None: ...
    def draw(self, row: Array, path: Sequence[int], position: int) -> int: ...
    def foresee(self, row: Array, path: Sequence[int], position: int, num_tokens: int) -> tuple[Array, Array]: ...
    def arrival_times(self, position: int, token_ids: Sequence[int]) -> list[float]: ...
    def probabilities(self, row: Array, path: Sequence[int]) -> Array: ...
    def commit(self, token_ids: Sequence[int]) -> None: ...
    def shape(self, draft: Draft, request: Request, budget: int, limit: int) -> Draft: ...


@dataclass(eq=False)
class Request:
    """One sequence being decoded. Invariant: after the prompt has been run, all tokens but the last have K/V in `slot`.

    `unconfirmed` are tokens that were predicted but have to be verified again: they lead the next draft. Drafters draft what follows
    `context`. `strategy` says how this request drafts and verifies; requests of one batch may differ.
    `cache_salt`: its K/V and what drafters learn from it may only serve requests of the same scope (a tenant, an API key).
    `prediction`: tokens the caller expects in the answer; drafters may look there, the model never sees them.
    `stop_check(token_id)` is told every committed token and answers whether a stop string is now complete.
    """

    id: str
    token_ids: list[int]
    sampling_params: SamplingParams
    sampler: Sampler
    strategy: Strategy
    stop_token_ids: frozenset[int] = frozenset()
    stop_check: Callable[[int], bool] | None = None
    num_prompt_tokens: int = 0
    slot: Slot | None = None
    unconfirmed: Unconfirmed = NONE_UNCONFIRMED
    finish_reason: str | None = None
    error: Exception | None = None
    sources: list[str] = field(default_factory=list)  # of every output token, as in StepOutput
    cache_salt: str = ""
    prediction: Sequence[int] = ()
    logprobs: list[dict[int, float]] | None = None
    prompt_logprobs: list[dict[int, float]] | None = None  # of the prompt's tokens from the second on
    stats: RequestStats = field(default_factory=RequestStats)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)
        if self.sampling_params.logprobs is not None:
            self.logprobs = []
        if self.sampling_params.prompt_logprobs is not None:
            self.prompt_logprobs = []

    @property
    def context(self) -> list[int]:
        """The text as far as it is known, unconfirmed tokens included: what drafters continue. Do not change it."""
        return [*self.token_ids, *self.unconfirmed.token_ids] if self.unconfirmed else self.token_ids

    @property
    def from_draft(self) -> list[bool]:
        """Which output tokens were accepted draft tokens."""
        return [bool(source) for source in self.sources]

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_tokens_left(self) -> int:
        return self.sampling_params.max_tokens - self.num_output_tokens

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of prompt tokens were asked for that are not known yet."""
        return self.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt_tokens - 1

    @property
    def max_draft_depth(self) -> int:
        """How many tokens of a path of a draft could be kept: the step adds one of its own, and the unconfirmed tokens come first."""
        return self.num_tokens_left - 1 - len(self.unconfirmed)

    @property
    def num_cached(self) -> int:
        """Tokens with K/V."""
        return 0 if self.slot is None else self.slot.num_cached

    @property
    def is_prefilling(self) -> bool:
        return self.num_cached < len(self.token_ids) - 1
