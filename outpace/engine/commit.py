"""Committing: verified tokens join the text, one by one, up to the first end or error."""

from __future__ import annotations

from dataclasses import dataclass, field

from outpace.arrays import Array
from outpace.request import Request
from outpace.sampling.sampler import logprobs_of
from outpace.tree.draft import Verdict


@dataclass
class Committed:
    """What was appended. `rows` are the rows of the forward pass whose K/V must stay, `cached_token_ids` their tokens."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    error: Exception | None = None
    cached_token_ids: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def commit(request: Request, verdict: Verdict, logits: Array) -> Committed:
    """Append the verdict's tokens. After an error (in a stop check, in log-probabilities) the tokens before it stay."""
    tokens = [verdict.draft.token_ids[node] for node in verdict.path]
    tokens += [] if verdict.next_token is None else [verdict.next_token]
    rows = [0, *(node + 1 for node in verdict.path)]  # row r predicted tokens[i]
    root, done = request.token_ids[-1], Committed()
    try:
        for token, row in zip(tokens, rows, strict=False):
            logprobs = None if request.logprobs is None else logprobs_of(logits[row], token, request.sampling_params.logprobs or 0)
            is_end = request.stop_check is not None and request.stop_check(token)
            if request.logprobs is not None and logprobs is not None:
                request.logprobs.append(logprobs)
            request.token_ids.append(token)
            done.token_ids.append(token)
            done.finish_reason = _finish_reason(request, token, is_end)
            if done.finish_reason is not None:
                break
        request.sampler.commit(done.token_ids)
    except Exception as error:
        done.error = error
    done.rows = rows[: len(done.token_ids)]
    done.cached_token_ids = [root, *done.token_ids[:-1]][: len(done.rows)]
    return done


def commit_prompt_logprobs(request: Request, start: int, logits: Array) -> None:
    """Note the log-probabilities of the prompt tokens after position `start`, which the rows of logits [n, V] predict. A request that gave
    way runs its text again; what is noted already is skipped."""
    noted = request.prompt_logprobs
    if noted is None:
        return
    first = 1 + len(noted)  # position of the first token that is not noted
    rows = logits[max(0, first - 1 - start) :]
    for row, token in zip(rows, request.token_ids[first : request.num_prompt_tokens], strict=False):
        noted.append(logprobs_of(row, token, request.sampling_params.prompt_logprobs or 0))


def sources_of(request: Request, verdict: Verdict) -> list[str]:
    """The drafter that proposed each token of the verdict's path, and "" for the model's own token at its end."""
    draft, unconfirmed = verdict.draft, request.unconfirmed.sources
    proposed = draft.sources or [request.strategy.name] * len(draft)
    return [*(unconfirmed[node] if node < len(unconfirmed) else proposed[node] for node in verdict.path), ""]


def _finish_reason(request: Request, token: int, is_end: bool) -> str | None:
    if request.num_output_tokens >= request.sampling_params.min_tokens and (is_end or token in request.stop_token_ids):
        return "stop"
    return "length" if request.num_tokens_left <= 0 else None
