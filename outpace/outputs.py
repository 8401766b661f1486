"""What a request gives: pieces of a stream and the whole answer; and the job that collects them while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from outpace.engine.metrics import acceptance_rate, mean_acceptance_length, tokens_per_step
from outpace.errors import BadInputError, OutpaceError
from outpace.models.tokenizer import TextBuilder
from outpace.request import Request, RequestStats, StepOutput


@dataclass(frozen=True)
class RequestOutput:
    """One finished answer; a prompt with `n` answers gives `n` of them, numbered by `index`.

    `from_draft[i]` says whether token i is an accepted draft token, `sources[i]` which drafter proposed it ("" for the model's own
    tokens), and `pieces[i]` is the text it added.
    """

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
    index: int = 0
    prompt_logprobs: list[dict[int, float]] | None = None  # of the prompt's tokens from the second on

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of decoding; prefill is not counted."""
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
    """What one step added to answer `index`: text that is final, and its tokens. The last piece carries the whole `output`.

    `pieces[i]` is the text of token i (it may show the start of a stop string, which `text` holds back), `logprobs[i]` its
    log-probabilities.
    """

    text: str
    token_ids: list[int]
    from_draft: list[bool]
    finish_reason: str | None
    output: RequestOutput | None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[int, float]] | None = None
    steps: list[StepOutput] = field(default_factory=list)
    index: int = 0


@dataclass(frozen=True)
class Event:
    """What a step gave answer `index` of a request. `step` counts this answer's steps, `milliseconds` is the step's duration, and
    `ended_at` its end (time.perf_counter)."""

    index: int
    step: int
    milliseconds: float
    ended_at: float
    piece: StreamPiece


class Job:
    """A request that is queued or running, with its text. `index` numbers the answers to one prompt.

    `siblings` are the other answers to the prompt, as long as they wait for the first one to bring the prompt into the prefix cache.
    """

    def __init__(self, request: Request, builder: TextBuilder, seed: int, index: int = 0):
        self.request, self.builder, self.seed, self.index = request, builder, seed, index
        self.siblings: list[Job] = []
        self.is_started = False  # the engine has it
        self.num_streamed = 0  # characters
        self.num_taken = 0  # tokens
        self.steps: list[StepOutput] = []

    @property
    def is_done(self) -> bool:
        return self.request.finish_reason is not None

    def take(self) -> StreamPiece:
        """What was added since the last call."""
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
        return StreamPiece(text, token_ids, from_draft, self.request.finish_reason, output, pieces, logprobs, steps, self.index)

    def output(self) -> RequestOutput:
        """The answer so far; its finish_reason is "abort" until it is done."""
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
            index=self.index,
            prompt_logprobs=request.prompt_logprobs,
        )


@contextmanager
def ending(streamer: Any) -> Iterator[None]:
    """Ends the streamer, whatever happens: another thread may be waiting for its end."""
    try:
        yield
    finally:
        if streamer is not None:
            streamer.end()


def failure(error: Exception) -> OutpaceError:
    """What to raise for a request that ended with this error: a BadInputError as it is, else an OutpaceError that it has caused."""
    if isinstance(error, BadInputError):
        return error
    found = OutpaceError(f"the request failed: {error}")
    found.__cause__ = error
    return found
