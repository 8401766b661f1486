"""Settings of a server. Sizes of the engine are in `EngineConfig`, limits of single fields in `api/protocol.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outpace.errors import BadInputError

UNKNOWN_FIELDS = ("refuse", "warn", "ignore")
CLIENT_CHOICES = ("all", "lossless", "allowed")


@dataclass(frozen=True)
class ServerSettings:
    """`max_queue`: answers that may wait per API key; more get 429. `request_timeout`: seconds from arrival to the last token.

    `allowed_drafters`: specs that clients may name beyond the built-in ones, exactly as written here; those of the LLM are always allowed.
    `client_choice`: what requests may choose in `speculative`: "all", "lossless" (no verifier that changes the distribution) or "allowed"
    (plain decoding and the specs of `allowed_drafters` and the LLM, nothing else). `allowed_hosts`: names that the server answers to
    besides addresses and localhost; None for any. `stall_timeout`: seconds without a byte after which a request that is still arriving is
    given up. `unknown_fields`: fields of requests without a meaning here are refused with 400 ("refuse"), or left out with or without a
    line in the log ("warn", "ignore"). `served_model_names`: the model's names for clients, the first one in answers; by default its own.
    `default_max_tokens`: maximum tokens of a chat answer if the client sets none. Without `api_keys` anyone may use the server.
    Raises BadInputError for values out of range.
    """

    api_keys: tuple[str, ...] = ()
    allowed_drafters: tuple[str, ...] = ()
    client_choice: str = "all"
    unknown_fields: str = "refuse"
    served_model_names: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] | None = None
    cors_origins: tuple[str, ...] = ()
    max_queue: int = 64
    request_timeout: float = 600.0
    stall_timeout: float = 30.0
    default_max_tokens: int = 1024
    max_body_bytes: int = 4 << 20
    log_prompts: bool = False

    @property
    def body_limits(self) -> dict[str, Any]:
        """The arguments of BodyMiddleware."""
        body_timeout = max(self.stall_timeout, self.request_timeout)
        return {"max_bytes": self.max_body_bytes, "stall_timeout": self.stall_timeout, "body_timeout": body_timeout}

    def __post_init__(self) -> None:
        for name, least in (("max_queue", 0), ("default_max_tokens", 1), ("max_body_bytes", 1)):
            if getattr(self, name) < least:
                raise BadInputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("request_timeout", "stall_timeout"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{name} must be above 0 seconds, not {getattr(self, name)}")
        for name, known in (("client_choice", CLIENT_CHOICES), ("unknown_fields", UNKNOWN_FIELDS)):
            if getattr(self, name) not in known:
                raise BadInputError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r:.80}")
        if any(not name.strip() for name in self.served_model_names):
            raise BadInputError("a served model name is empty")
        if any(not key for key in self.api_keys):
            raise BadInputError("an API key is empty")
