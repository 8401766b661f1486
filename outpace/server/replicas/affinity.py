"""Which replica a request goes to: the one that has run the beginning of its conversation or prompt, unless others wait less."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
PROMPT_START = 512  # characters of a prompt without messages that decide
SLACK = 4  # requests that the preferred replica may have more than the idlest one


def affinity_key(headers: Mapping[str, str], body: bytes) -> str:
    """Requests with equal keys share a beginning: the client's `prompt_cache_key`, else all up to the first message of the user, else the
    start of the prompt. Empty for requests without a prompt. API keys share no K/V, so they are a part of it."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    start = _start(fields) if isinstance(fields, dict) else None
    if not start:
        return ""
    caller = headers.get("authorization", "") or headers.get("x-api-key", "")
    return hashlib.sha256(json.dumps([caller, start]).encode()).hexdigest()[:32]


def _start(fields: Mapping[str, Any]) -> Any:
    if isinstance(fields.get("prompt_cache_key"), str):
        return fields["prompt_cache_key"]
    prompt = next((fields[name] for name in ("messages", "input", "prompt") if name in fields), None)
    if isinstance(prompt, str):
        return [fields.get("instructions"), prompt[:PROMPT_START]]
    if not isinstance(prompt, list):
        return None
    roles = [message.get("role") if isinstance(message, dict) else None for message in prompt]
    end = 1 + roles.index("user") if "user" in roles else 1
    return [fields.get("instructions"), json.dumps(prompt[:end])[: 8 * PROMPT_START]]


def by_load(replicas: Sequence[T], num_requests: Sequence[int], slack: int = SLACK) -> list[T]:
    """The replicas, the preferred one first, as they are to be tried: those with the fewest requests come first if the preferred one has
    more than `slack` requests more than one of them."""
    if not replicas or num_requests[0] - min(num_requests) <= slack:
        return list(replicas)
    return [replicas[place] for place in sorted(range(len(replicas)), key=lambda place: num_requests[place])]
