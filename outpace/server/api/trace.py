"""The trace of a step for the page: the tokens it gave, and the draft with the accepted path."""

from __future__ import annotations

from typing import Any

from outpace.drafters.spec import shown
from outpace.models.tokenizer import Tokenizer
from outpace.outputs import Event
from outpace.trace.lines import draft_of


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
    draft = draft_of(event.piece.steps[-1], tokenizer.token_text)
    return {"step": event.step, "milliseconds": round(event.milliseconds, 3), "tokens": tokens, "draft": draft}
