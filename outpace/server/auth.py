"""Who may call: API keys, compared in constant time, and the names that the server answers to.

Each key has a cache salt of its own, so that drafters learn nothing across keys.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from outpace.errors import BadInputError
from outpace.files import decoded
from outpace.server.api_errors import ApiError

OPEN_PATHS = ("/", "/health", "/version")  # for health checks, and the page, which asks for a key itself
OPEN_FOLDER = "/static/"


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one per line; blank lines and lines that start with # are ignored. Raises BadInputError."""
    try:
        lines = [line.strip() for line in decoded(path.read_bytes()).split("\n")]
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

    def salt_of(self, headers: Headers) -> str | None:
        """The cache salt of the key in `Authorization: Bearer KEY` or `X-Api-Key: KEY`; None without a valid one."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        salts = [self._salt(bearer if scheme.lower() == "bearer" else ""), self._salt(headers.get("x-api-key", ""))]
        return next((salt for salt in salts if salt is not None), None)

    def _salt(self, key: str) -> str | None:
        digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self.digests]  # all of them, always
        return digest.hex()[:16] if any(matches) else None


class AuthMiddleware:
    """Answers 401 to unknown keys before the body is read, and puts the cache salt of the others into the request's state."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            headers = Headers(scope=scope)
            cache_salt = self.keys.salt_of(headers)
            if cache_salt is None and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
                await _no_key(headers).response()(scope, receive, send)
                return
            scope["state"] = {**scope.get("state", {}), "cache_salt": cache_salt or ""}
        await self.app(scope, receive, send)


def _no_key(headers: Headers) -> ApiError:
    is_wrong = "authorization" in headers or "x-api-key" in headers
    message = "this API key is not valid here" if is_wrong else "this server needs an API key"
    return ApiError(401, f"{message}; send it as Authorization: Bearer KEY", code="invalid_api_key")


class HostMiddleware:
    """Answers 403 to requests for a name that is not this server's.

    Without this check, a web page whose name is pointed at this machine (DNS rebinding) could read the answers of a server without keys.
    Addresses and `localhost` cannot be pointed elsewhere, so they always pass.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self.app, self.names = app, {name.lower().rstrip(".") for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host") if scope["type"] == "http" else None
        if host is not None and not self._is_known(name := _without_port(host)):
            message = f"{name[:100]!r} is not a name of this server; it may be added with --allow-host"
            await ApiError(403, message, code="unknown_host").response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_known(self, name: str) -> bool:
        name = name.lower().rstrip(".")
        if name == "localhost" or name.endswith(".localhost") or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _without_port(host: str) -> str:
    """The name in a Host header; an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
