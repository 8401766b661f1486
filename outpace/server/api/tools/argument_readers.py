"""Reads the arguments of a call while they are written, and gives them as one JSON object."""

from __future__ import annotations

import json
import re
from typing import Any

from outpace.server.api.tools.call_formats import FieldStyle
from outpace.server.api.tools.field_schema import KINDS, TEXT, kinds, kinds_of, properties

WORDS = {"True": True, "False": False, "None": None}  # templates that print values in Python's way teach models to do so


class JsonArguments:
    """Arguments that are a JSON object."""

    def __init__(self) -> None:
        self.is_complete = False
        self._depth, self._in_string, self._is_escaped = 0, False, False

    def feed(self, text: str) -> tuple[str, str]:
        """(JSON, text that is left) of an answer's text that has not been read yet."""
        for at, char in enumerate(text):
            if self._in_string:
                self._in_string = self._is_escaped or char != '"'
                self._is_escaped = char == "\\" and not self._is_escaped
            elif char in '{}[]"':
                self._in_string = char == '"'
                self._depth += (char in "{[") - (char in "}]")
                if self._depth == 0 and char == "}":
                    self.is_complete = True
                    return text[: at + 1], text[at + 1 :]
        return text, ""


class FieldArguments:
    """Arguments that are written one by one; `end` is what follows the last one. The types of their values are those of `schema`."""

    def __init__(self, style: FieldStyle, end: str, schema: Any):
        self.style, self.end, self.schema = style, end, schema
        self.is_complete = False
        self._properties = properties(schema)
        self._head = re.compile(f"(?s){re.escape(style.before)}(.+?){re.escape(style.between)}")
        self._count = 0
        self._kinds: frozenset[str] | None = None  # of the value that is being read
        self._in_text = False  # it is a text, and has begun

    def feed(self, text: str) -> tuple[str, str]:
        """As JsonArguments.feed."""
        found = ""
        while not self.is_complete:
            part, left = self._field(text) if self._kinds is None else self._value(text)
            if part is None:
                break
            found, text = found + part, left
        return found, text

    def _field(self, text: str) -> tuple[str | None, str]:
        """The name of the next argument, or the end; None if more text is needed."""
        if text.startswith(self.end):
            self.is_complete = True
            return "}" if self._count else "{}", text
        head = self._head.match(text)
        if head is None:
            return None, text
        self._count += 1
        self._kinds, self._in_text = kinds(self._properties.get(head[1], {}), self.schema), False
        return ("{" if self._count == 1 else ", ") + _json(head[1]) + ": ", text[head.end() :]

    def _value(self, text: str) -> tuple[str | None, str]:
        """A value, or what there is of a text; None if more text is needed."""
        at = text.find(self.style.after)
        if self._kinds == TEXT:
            stop = at if at >= 0 else len(text) - _num_open(text, self.style.after)
            if at < 0 and stop == 0:
                return None, text
            found = ("" if self._in_text else '"') + _json(text[:stop])[1:-1] + ('"' if at >= 0 else "")
            self._in_text = True
            if at < 0:
                return found, text[stop:]
        elif at < 0:
            return None, text
        else:
            found = _json(_typed(text[:at], self._kinds or KINDS))
        self._kinds = None
        return found, text[at + len(self.style.after) :]


def _typed(text: str, wanted: frozenset[str]) -> Any:
    """The value of one of these types that the text stands for; the text itself if there is none."""
    if text in WORDS:
        value = WORDS[text]
    else:
        try:
            value = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return text
    is_wanted = not kinds_of(value).isdisjoint(wanted - TEXT)
    return value if is_wanted else text


def _num_open(text: str, end: str) -> int:
    """Number of characters at the end of the text that may be the beginning of `end`."""
    return next((length for length in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:length])), 0)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
