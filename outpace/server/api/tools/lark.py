"""Texts, special tokens and JSON schemas in llguidance's Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from outpace.errors import BadInputError
from outpace.sampling.grammar import LAYOUT


def pieces(text: str, specials: Mapping[str, int]) -> list[str]:
    """The text, cut so that special tokens stand alone."""
    names = [name for name in specials if name in text]
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return [part for part in parts if part]


def literal(text: str, specials: Mapping[str, int]) -> str:
    """A text in Lark, special tokens as such."""
    return " ".join(f"<[{specials[part]}]>" if part in specials else quote(part) for part in pieces(text, specials))


def as_json(schema: Any, is_loose: bool = False) -> str:
    """JSON that fits the schema; `is_loose`: with any white space. Raises BadInputError for a layout that is no object."""
    layout = {} if is_loose else LAYOUT
    own = schema.get("x-guidance", {}) if isinstance(schema, Mapping) else {}
    if not isinstance(own, Mapping):
        raise BadInputError("x-guidance must be an object")
    return f"%json {json.dumps({'x-guidance': {**layout, **own}, **{k: v for k, v in schema.items() if k != 'x-guidance'}})}"


def quote(text: str) -> str:
    """A string of Lark."""
    return json.dumps(text, ensure_ascii=False)


def regex(text: str) -> str:
    """A regular expression for this text, for Lark's slashes."""
    return re.escape(text).replace("/", "\\/").replace("\n", "n").replace('"', '\\"')
