"""The trace of a step for the page: the tokens it gave, and the draft with the accepted path."""

from __future__ import annotations

from typing import Any

from outpace.models.tokenizer import Tokenizer
from outpace.outputs import Event
from outpace.server.policy import shown


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """One token as text; an incomplete character becomes U+FFFD."""
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")


def token_key(tokenizer: Tokenizer, token_id: int) -> str:
    """One token as text, or as OpenAI's `bytes:\\xe2\\x80` if it is part of a character, so that no two such tokens look alike."""
    raw = tokenizer.token_bytes(token_id)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def trace_of(tokenizer: Tokenizer, event: Event) -> dict[str, Any]:
    """The `trace` field of a chunk: {step, milliseconds, tokens, draft}; `accepted` are the accepted nodes, from the root down.

    `source` is "" for the model's own token, else the drafter's name, "a+b" if both proposed it. Lookahead tokens are left out.
    """
    sources = [source for step in event.piece.steps for source in step.sources]
    tokens = [{"text": text, "source": shown(source)} for text, source in zip(event.piece.pieces, sources, strict=True)]
    return {
        "step": event.step,
        "milliseconds": round(event.milliseconds, 3),
        "tokens": tokens,
        "draft": _draft(tokenizer, event),
    }


def _draft(tokenizer: Tokenizer, event: Event) -> dict[str, Any]:
    step = event.piece.steps[-1]
    verdict = step.verdict
    if verdict is None:
        return {"tokens": [], "parents": [], "confidences": [], "sources": [], "accepted": []}
    draft = verdict.draft
    size = len(draft) - draft.num_lookahead
    confidences = [None] * size if draft.confidences is None else [round(float(confidence), 6) for confidence in draft.confidences[:size]]
    return {
        "tokens": [token_text(tokenizer, token) for token in draft.token_ids[:size]],
        "parents": [int(parent) for parent in draft.parents[:size]],
        "confidences": confidences,
        "sources": [shown(source) for source in draft.sources[:size]] if draft.sources else [shown(step.request.strategy.name)] * size,
        "accepted": [int(node) for node in verdict.path],
    }
