"""The `speculative` field of a request, and which drafters a stranger may name.

A spec can name code to import and files to read, so from the network only a narrow form is taken: names in DRAFTERS, joined by +,
perhaps behind `auto:`, with options that are small numbers, true, false, or a known word, and helpers made of the model itself (`self:N`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from outpace.config import SpeculativeConfig
from outpace.drafters import AUTO, AUTO_DRAFTERS, DRAFTERS, is_adaptive, parse_specs
from outpace.server.errors import ApiError
from outpace.server.protocol import SpeculativeRequest
from outpace.verifiers import VERIFIERS

MAX_PARTS = 4
MAX_OPTION = 64  # larger numbers could ask for tables that fill the memory
WORDS = {"choose": ("recent", "frequent"), "tokens": ("random", "frequent")}  # options that take a word
_NUMBER = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Wish:
    """What a request wants: the settings, and what it wants to be told."""

    config: SpeculativeConfig
    trace: bool = False
    sources: bool = False


class Policy:
    """Reads the field. `default` is what the server was started with; its specs, and those in `allowed`, pass as they are."""

    def __init__(self, default: SpeculativeConfig, allowed: Sequence[str] = ()):
        for spec in allowed:
            parse_specs(spec)  # a wrong name is told at the start
        self.default = default
        self.allowed = {part for spec in (default.method, *allowed) for part in (spec, *spec.split("+"))}
        self.verifiers = {*VERIFIERS, default.verifier}

    def read(self, value: bool | str | SpeculativeRequest | None) -> Wish:
        """The wish behind the field's value. Raises ApiError (400) for anything not allowed."""
        if value is None or value is True:
            return Wish(self.default)
        if value is False:
            return Wish(replace(self.default, method="none", num_draft_tokens=None))
        if isinstance(value, str):
            value = SpeculativeRequest(method=value)
        changes: dict[str, Any] = {}
        if value.method is not None:
            self._check(value.method)
            changes = {"method": value.method, "num_draft_tokens": None}
        if value.num_draft_tokens is not None:
            changes["num_draft_tokens"] = value.num_draft_tokens
        if value.verifier is not None:
            if value.verifier not in self.verifiers:
                raise _refused(f"unknown verifier {value.verifier!r}; known: {', '.join(sorted(self.verifiers))}")
            changes["verifier"] = value.verifier
        return Wish(replace(self.default, **changes), value.trace, value.sources)

    def _check(self, method: str) -> None:
        if method in self.allowed:
            return
        drafters = method.partition(":")[2] or AUTO_DRAFTERS if is_adaptive(method) else method
        parts = drafters.split("+")
        if len(parts) > MAX_PARTS:
            raise _refused(f"at most {MAX_PARTS} drafters can be combined")
        for part in parts:
            if part not in self.allowed:
                self._check_part(part)

    def _check_part(self, part: str) -> None:
        name, *rest = part.split(":")
        if name not in DRAFTERS:
            raise _refused(f"unknown drafter {name!r}; known: {', '.join([*DRAFTERS, AUTO, *sorted(self.allowed - DRAFTERS.keys())])}")
        if rest[:1] == ["self"]:  # a helper made of the model itself, perhaps of its first layers only
            rest = rest[2:] if rest[1:] and _is_small(rest[1]) else rest[1:]
        for option in rest:
            key, separator, value = option.partition("=")
            if not (separator and (_is_small(value) or value in ("true", "false", *WORDS.get(key, ())))):
                raise _refused(
                    f"{option!r} is not allowed here: options are numbers up to {MAX_OPTION}, true, false or a word the drafter knows"
                )


def _is_small(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and float(text) <= MAX_OPTION


def _refused(message: str) -> ApiError:
    return ApiError(400, message, param="speculative")
