"""API keys, compared in constant time. Each key has a cache salt of its own, so that drafters learn nothing across keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from outpace.errors import BadInputError
from outpace.server.api_errors import ApiError

OPEN_PATHS = ("/", "/health", "/version")  # for health checks, and the page, which asks for a key itself
OPEN_FOLDER = "/static/"


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one per line; blank lines and lines that start with # are ignored. Raises BadInputError."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read the keys in {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    keys = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not keys:
        raise BadInputError(f"there is no key in {path}")
    if bad := [
        number for number, line in enumerate(lines, 1) if line in keys and not (line.isascii() and line.isprintable() and " " not in line)
    ]:
        raise BadInputError(f"{path}, line {bad[0]}: a key consists of printable ASCII characters without spaces")
    return keys


class Keys:
    """The valid keys, as digests, whose comparison takes the same time whatever they contain."""

    def __init__(self, keys: Sequence[str]):
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def salt_of(self, authorization: str) -> str | None:
        """The cache salt of the key in an Authorization header; None for an unknown key."""
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self.digests]  # all of them, always
        return digest.hex()[:16] if any(matches) and scheme.lower() == "bearer" else None


class AuthMiddleware:
    """Answers 401 to unknown keys before the body is read, and puts the cache salt of the others into the request's state."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            cache_salt = self.keys.salt_of(Headers(scope=scope).get("authorization", ""))
            if cache_salt is None and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
                error = ApiError(401, "a valid API key is required, as Authorization: Bearer KEY", code="invalid_api_key")
                await error.response()(scope, receive, send)
                return
            scope["state"] = {**scope.get("state", {}), "cache_salt": cache_salt or ""}
        await self.app(scope, receive, send)
