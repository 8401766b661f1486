"""A request on its way with its text, and what it gives: pieces of a stream, and the whole answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from outpace.engine.metrics import acceptance_rate, mean_acceptance_length, tokens_per_step
from outpace.models.tokenizer import TextBuilder
from outpace.request import Request, RequestStats, StepOutput


@dataclass(frozen=True)
class RequestOutput:
    """One finished answer. `from_draft[i]`: was token i a guess that was kept? `sources[i]`: whose, "" if it is the model's own.
    `pieces[i]`: the text it added."""

    text: str
    token_ids: list[int]
    from_draft: list[bool]
    pieces: list[str]
    finish_reason: str  # stop, length, abort or error
    prompt_token_ids: list[int]
    drafter: str
    seed: int
    stats: RequestStats
    logprobs: list[dict[int, float]] | None = None
    error: Exception | None = None
    sources: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Decoding only; prefill is not counted."""
        return len(self.token_ids) / self.stats.decode_seconds if self.stats.decode_seconds else 0.0

    @property
    def tokens_per_step(self) -> float:
        return tokens_per_step(len(self.token_ids), self.stats.num_steps)

    @property
    def mean_acceptance_length(self) -> float:
        return mean_acceptance_length(self.stats.num_accepted_tokens, self.stats.num_drafts)

    @property
    def acceptance_rate(self) -> float:
        return acceptance_rate(self.stats.num_accepted_tokens, self.stats.num_draft_tokens)


@dataclass(frozen=True)
class StreamPiece:
    """What one step added: text that is final, and the tokens behind it. The last piece carries the whole `output`.

    `pieces[i]` is the text of token i (of a stop string it may show what `text` holds back), `logprobs[i]` its log-probabilities.
    """

    text: str
    token_ids: list[int]
    from_draft: list[bool]
    finish_reason: str | None
    output: RequestOutput | None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[int, float]] | None = None
    steps: list[StepOutput] = field(default_factory=list)


class Job:
    """A request on its way, with its text."""

    def __init__(self, request: Request, builder: TextBuilder, seed: int):
        self.request, self.builder, self.seed = request, builder, seed
        self.num_streamed = 0
        self.num_taken = 0  # tokens
        self.steps: list[StepOutput] = []

    @property
    def is_done(self) -> bool:
        return self.request.finish_reason is not None

    def take(self) -> StreamPiece:
        """Everything since the last call."""
        done = self.is_done
        if done:
            self.builder.finish()
        end = len(self.builder.text) if done else self.builder.num_streamable
        text, self.num_streamed = self.builder.text[self.num_streamed : end], max(end, self.num_streamed)
        steps, self.steps = self.steps, []
        token_ids = [token for step in steps for token in step.token_ids]
        from_draft = [bool(source) for step in steps for source in step.sources]
        start, self.num_taken = self.num_taken, self.num_taken + len(token_ids)
        logprobs = None if self.request.logprobs is None else self.request.logprobs[start : self.num_taken]
        output = self.output() if done else None
        pieces = self.builder.pieces_from(start, self.num_taken)
        return StreamPiece(text, token_ids, from_draft, self.request.finish_reason, output, pieces, logprobs, steps)

    def output(self) -> RequestOutput:
        """The answer so far; finish_reason "abort" while it is not done."""
        request = self.request
        return RequestOutput(
            text=self.builder.finish(),
            token_ids=request.output_token_ids,
            from_draft=request.from_draft,
            sources=request.sources,
            pieces=self.builder.pieces,
            finish_reason=request.finish_reason or "abort",
            prompt_token_ids=request.token_ids[: request.num_prompt_tokens],
            drafter=request.strategy.name,
            seed=self.seed,
            stats=request.stats,
            logprobs=request.logprobs,
            error=request.error,
        )
