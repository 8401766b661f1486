"""The `speculative` field of a request, and which drafters a client may name.

A spec can name code to import, files to read, models to load, and tables that fill the memory. Clients may therefore name only drafters
that need no argument, joined by +, each once, also in `auto:…`, with the options in OPTIONS; and the specs that the operator has named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from outpace.config import SpeculativeConfig
from outpace.drafters import AUTO
from outpace.drafters.spec import catalogue, check_specs, is_adaptive, parse_specs, ready_drafters, shown, usage
from outpace.server.api.protocol import SpeculativeRequest
from outpace.server.api_errors import ApiError
from outpace.targets.identity import Base
from outpace.verifiers import VERIFIERS, create_verifier

MAX_PARTS = 4
OPTIONS: dict[str, dict[str, float | tuple[str, ...]]] = {  # what a client may set: numbers up to this one, or one of these words
    "blind": {"tokens": ("random", "frequent"), "seed": 64},
    "prompt_lookup": {"max_ngram": 16, "min_ngram": 16, "choose": ("recent", "frequent"), "branches": 64},
    "suffix": {"threshold": 1},  # not memory, scopes, file: they store text and write files
    "recycling": {"successors": 16, "threshold": 1},  # not pairs, scopes: they size its tables; not table: it reads files
    "lookahead": {"window": 32, "ngram": 32, "guesses": 64},
    "blanks": {"count": 32, "branches": 64, "after": ("root", "end", "every")},
    "prediction": {"max_suffix": 16},
    "medusa": {"shape": ("best", "fixed"), "threshold": 1},  # not path: it reads files
    "eagle": {"max_depth": 8, "branches": 8, "threshold": 1},  # not path: it reads files
}
_NUMBER = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class SpeculationRequest:
    """What a request asks for: the settings, and which details its answer shows."""

    config: SpeculativeConfig
    trace: bool = False
    sources: bool = False


class Policy:
    """Reads the field. `default` is what the server was started with; its specs and those in `allowed` are accepted as they are. `base`
    is the model that is served: the trained heads for it that come with outpace may be named, too. `choice` limits all of this, see
    `ServerSettings.client_choice`."""

    def __init__(
        self,
        default: SpeculativeConfig,
        allowed: Sequence[str] = (),
        has_auto: bool = True,
        base: Base | None = None,
        choice: str = "all",
    ):
        for spec in allowed:
            check_specs(spec)  # fails at the start for a wrong spec
        self.default, self.choice = default, choice
        self.specs = tuple(dict.fromkeys((default.method, *allowed)))  # the operator's
        self.allowed = {text for spec in self.specs for text in (spec, *(part.text for part in parse_specs(spec)))}
        ready = [name for name in ready_drafters(base) if has_auto or name != AUTO]
        self.names = [name for name in ready if choice != "allowed" or name == "none"]
        self.verifiers = {name for name in VERIFIERS if choice == "all" or create_verifier(name).lossless} | {default.verifier}

    def read(self, value: bool | str | SpeculativeRequest | None) -> SpeculationRequest:
        """The request behind the field's value. Raises ApiError (400) for anything that is not allowed."""
        if value is None or value is True:
            return SpeculationRequest(self.default)
        if value is False:
            return SpeculationRequest(replace(self.default, method="none", num_draft_tokens=None))
        if isinstance(value, str):
            value = SpeculativeRequest.model_validate({"method": value})
        changes: dict[str, Any] = {}
        if value.method is not None:
            self._check(value.method)
            changes = {"method": value.method, "num_draft_tokens": None}
        if value.num_draft_tokens is not None:
            if self.choice == "allowed":
                raise _rejected("this server chooses the number of draft tokens itself")
            changes["num_draft_tokens"] = value.num_draft_tokens
        if value.verifier is not None:
            if value.verifier not in self.verifiers:
                what = "this server does not allow the" if value.verifier in VERIFIERS else "unknown"
                raise _rejected(f"{what} verifier {value.verifier!r}; it allows {', '.join(sorted(self.verifiers))}")
            changes["verifier"] = value.verifier
        return SpeculationRequest(replace(self.default, **changes), value.trace, value.sources)

    def listing(self) -> list[dict[str, Any]]:
        """Name, usage, description and options (with defaults) of every drafter that a request may name; `default` marks the server's own.

        The operator's specs are listed too, except for those with paths of this machine.
        """
        known = [
            {
                "name": name,
                "usage": usage(name),
                "description": text,
                "options": {key: value for key, value in options.items() if key in OPTIONS.get(name, {})},
                "default": name == self.default.method,
            }
            for name, text, options in catalogue()
            if name in self.names
        ]
        own = [
            {"name": spec, "usage": spec, "description": "Offered by this server.", "options": {}, "default": spec == self.default.method}
            for spec in self.specs
            if spec not in self.names and shown(spec) == spec
        ]
        return known + own

    def _check(self, method: str) -> None:
        if method in self.allowed:
            return
        body = method
        if is_adaptive(method):
            if AUTO not in self.names:
                raise _rejected("auto is not ready here: call llm.strategy('auto') before create_app")
            body = method.strip().partition(":")[2]
        parts = body.split("+") if body or not is_adaptive(method) else []
        if len(parts) > MAX_PARTS:
            raise _rejected(f"at most {MAX_PARTS} drafters can be combined")
        if len({part.partition(":")[0] for part in parts}) < len(parts):
            raise _rejected("each drafter can be named only once")
        for part in parts:
            if part not in self.allowed:
                self._check_part(part)

    def _check_part(self, part: str) -> None:
        name, *options = part.split(":")
        if name not in self.names or is_adaptive(name):
            raise _rejected(
                f"{name[:40]!r} is not available to requests; known: {', '.join(self.names)}, and what the server was started with"
            )
        known = OPTIONS.get(name, {})
        for option in options:
            key, _, value = option.partition("=")
            if key not in known or not _is_within(value, known[key]):
                settable = "; ".join(_in_words(*item) for item in known.items()) or "no options"
                raise _rejected(f"{name} with {option!r} is not available to requests; they may set {settable}")


def _is_within(text: str, limit: float | tuple[str, ...]) -> bool:
    if isinstance(limit, tuple):
        return text in limit
    return bool(_NUMBER.fullmatch(text)) and float(text) <= limit


def _in_words(key: str, limit: float | tuple[str, ...]) -> str:
    return f"{key} ({', '.join(limit)})" if isinstance(limit, tuple) else f"{key} (up to {limit})"


def _rejected(message: str) -> ApiError:
    return ApiError(400, message, param="speculative")
