"""Settings of a server. Sizes of the engine are in `EngineConfig`, limits of single fields in `api/protocol.py`."""

from __future__ import annotations

from dataclasses import dataclass

from outpace.errors import BadInputError


@dataclass(frozen=True)
class ServerSettings:
    """`max_queue`: answers that may wait per API key; more get 429. `request_timeout`: seconds from arrival to the last token.

    `allowed_drafters`: specs that clients may name beyond the built-in ones, exactly as written here; those of the LLM are always allowed.
    `default_max_tokens`: maximum tokens of a chat answer if the client sets none. Without `api_keys` anyone may use the server.
    Raises BadInputError for values out of range.
    """

    api_keys: tuple[str, ...] = ()
    allowed_drafters: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_queue: int = 64
    request_timeout: float = 600.0
    default_max_tokens: int = 1024
    max_body_bytes: int = 4 << 20
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_queue", 0), ("default_max_tokens", 1), ("max_body_bytes", 1)):
            if getattr(self, name) < least:
                raise BadInputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not self.request_timeout > 0:
            raise BadInputError(f"request_timeout must be above 0 seconds, not {self.request_timeout}")
        if any(not key for key in self.api_keys):
            raise BadInputError("an API key is empty")
