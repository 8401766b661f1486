"""A step as a JSON line: what each request drafted, what was accepted and how long it took."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outpace.drafters.spec import shown
from outpace.engine.step_record import StepRecord
from outpace.request import StepOutput

TextOf = Callable[[int], str]  # the text of a token


def draft_of(step: StepOutput, text_of: TextOf | None) -> dict[str, Any]:
    """The draft of one request: {tokens, parents, confidences, sources, accepted}; `accepted` are the accepted nodes, from the root down.

    `sources`: "" for an unconfirmed token, else the drafter's name, "a+b" if both proposed it. Lookahead tokens are left out, and `tokens`
    without `text_of`.
    """
    verdict = step.verdict
    if verdict is None:
        return {**({"tokens": []} if text_of else {}), "parents": [], "confidences": [], "sources": [], "accepted": []}
    draft = verdict.draft
    size = len(draft) - draft.num_lookahead
    confidences = [None] * size if draft.confidences is None else [round(float(confidence), 6) for confidence in draft.confidences[:size]]
    return {
        **({"tokens": [text_of(token) for token in draft.token_ids[:size]]} if text_of else {}),
        "parents": [int(parent) for parent in draft.parents[:size]],
        "confidences": confidences,
        "sources": [shown(source) for source in draft.sources[:size]] if draft.sources else [shown(step.request.strategy.name)] * size,
        "accepted": [int(node) for node in verdict.path],
    }


def answer_of(step: StepOutput, number: int, text_of: TextOf | None) -> dict[str, Any]:
    """What the step gave request `number`."""
    pairs = zip(step.token_ids, step.sources, strict=False)
    return {
        "request": number,
        "step": step.request.stats.num_steps,
        "drafter": shown(step.request.strategy.name),
        "num_drafted": step.num_drafted,
        "num_accepted": step.num_accepted,
        "tokens": [{**({"text": text_of(token)} if text_of else {}), "source": shown(source)} for token, source in pairs],
        "draft": draft_of(step, text_of),
        "finish_reason": step.finish_reason,
    }


def line_of(record: StepRecord, number: int, started_at: float, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The line of a step; `started_at` is when the trace began, by time.perf_counter()."""
    return {
        "step": number,
        "at": round(1e3 * (record.ended_at - started_at), 3),
        "milliseconds": {part: round(1e3 * seconds, 4) for part, seconds in record.seconds.items()},
        "num_tokens": record.num_tokens,
        "num_prompt_tokens": record.num_prompt_tokens,
        "answers": answers,
    }
