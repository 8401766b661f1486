"""Settings of a server. Sizes of the engine are in `EngineConfig`, limits of single fields in `api/protocol.py`."""

from __future__ import annotations

from dataclasses import dataclass

from outpace.errors import BadInputError

CLIENT_CHOICES = ("all", "lossless", "allowed")


@dataclass(frozen=True)
class ServerSettings:
    """`max_queue`: answers that may wait per API key; more get 429. `request_timeout`: seconds from arrival to the last token.

    `allowed_drafters`: specs that clients may name beyond the built-in ones, exactly as written here; those of the LLM are always allowed.
    `client_choice`: what requests may choose in `speculative`: "all", "lossless" (no verifier that changes the distribution) or "allowed"
    (plain decoding and the specs of `allowed_drafters` and the LLM, nothing else). `allowed_hosts`: names that the server answers to
    besides addresses and localhost; None for any. `stall_timeout`: seconds without a byte after which a request that is still arriving is
    given up. `default_max_tokens`: maximum tokens of a chat answer if the client sets none. Without `api_keys` anyone may use the server.
    Raises BadInputError for values out of range.
    """

    api_keys: tuple[str, ...] = ()
    allowed_drafters: tuple[str, ...] = ()
    client_choice: str = "all"
    allowed_hosts: tuple[str, ...] | None = None
    cors_origins: tuple[str, ...] = ()
    max_queue: int = 64
    request_timeout: float = 600.0
    stall_timeout: float = 30.0
    default_max_tokens: int = 1024
    max_body_bytes: int = 4 << 20
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_queue", 0), ("default_max_tokens", 1), ("max_body_bytes", 1)):
            if getattr(self, name) < least:
                raise BadInputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("request_timeout", "stall_timeout"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{name} must be above 0 seconds, not {getattr(self, name)}")
        if self.client_choice not in CLIENT_CHOICES:
            raise BadInputError(f"client_choice must be one of {', '.join(CLIENT_CHOICES)}, not {self.client_choice!r:.80}")
        if any(not key for key in self.api_keys):
            raise BadInputError("an API key is empty")
