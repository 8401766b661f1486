"""Verifiers decide which draft tokens are accepted. A new verifier is one file here and one line in VERIFIERS."""

from __future__ import annotations

from importlib import import_module

from outpace.errors import BadInputError
from outpace.verifiers.base import Verifier

VERIFIERS = {
    "exact": "outpace.verifiers.exact:ExactVerifier",
    "typical": "outpace.verifiers.typical:TypicalVerifier",
}


def create_verifier(name: str) -> Verifier:
    """Create the verifier with this name. Raises BadInputError for an unknown name."""
    if name not in VERIFIERS:
        raise BadInputError(f"unknown verifier {name!r}; known: {', '.join(VERIFIERS)}")
    module, _, attribute = VERIFIERS[name].partition(":")
    verifier: Verifier = getattr(import_module(module), attribute)()
    return verifier
