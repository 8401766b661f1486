"""Where structured output is decided: `response_format` to what the engine enforces."""

from __future__ import annotations

from typing import Any

from outpace.server.errors import ApiError
from outpace.server.protocol import ResponseFormat


def build_grammar(response_format: ResponseFormat | None) -> Any | None:
    """What must hold for the answer, None for any text. Raises ApiError (400) for a form that cannot be enforced."""
    if response_format is None or response_format.type == "text":
        return None
    raise ApiError(
        400, f"response_format {response_format.type!r} is not supported by this server", param="response_format", code="unsupported_field"
    )
