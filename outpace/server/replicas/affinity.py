"""Which replica a request goes to: the one that has run the beginning of its conversation or prompt, unless others wait less."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from outpace.server.api.responses.response_store import replica_of

T = TypeVar("T")
PROMPT_START = 512  # characters of a prompt without messages that decide
KEEPER = "kept by "  # begins the key of a request that one replica alone can answer
SLACK = 4  # requests that the preferred replica may have more than the idlest one


def affinity_key(path: str, headers: Mapping[str, str], body: bytes) -> str:
    """Requests with equal keys go to one replica. The key of a request that names a kept response, in its path or as
    `previous_response_id`, names the replica that has it. Others share a beginning: the client's `prompt_cache_key`, else all up to the
    first message of the user, else the start of the prompt. Empty for requests without a prompt. API keys share no K/V, so they are a
    part of it."""
    fields = _fields(body)
    named = fields.get("previous_response_id")
    if replica := replica_of(named if isinstance(named, str) else path.rstrip("/").rpartition("/")[2]):
        return KEEPER + replica
    start = _start(fields)
    if not start:
        return ""
    caller = headers.get("authorization", "") or headers.get("x-api-key", "")
    return hashlib.sha256(json.dumps([caller, start]).encode()).hexdigest()[:32]


def keeper_of(key: str) -> str:
    """The replica that an affinity key names; empty for other keys."""
    return key.removeprefix(KEEPER) if key.startswith(KEEPER) else ""


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


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
