"""Finds the calls in an answer while it is written."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from outpace.server.api.tools.argument_readers import FieldArguments, JsonArguments
from outpace.server.api.tools.call_formats import CallFormat, CallStyle

LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class CallPart:
    """A part of call number `index`: its start, which has the `name` and the `id` of the call, or some of its arguments."""

    index: int
    arguments: str = ""
    name: str | None = None
    id: str | None = None


class CallReader:
    """Splits an answer into text and calls of the functions whose schemas are given. Text that may become a call is held back until that is
    certain."""

    def __init__(self, call_format: CallFormat, functions: Mapping[str, Any], is_forced: bool = False):
        self.call_format, self.functions, self.is_forced = call_format, functions, is_forced
        self.heads = {style.open + style.head(name): (style, name) for style in call_format.styles for name in functions}
        self.buffer = ""
        self.has_text = False  # the answer has begun with something else than a call
        self.style: CallStyle | None = None  # of the calls that have begun
        self.num_calls = 0
        self.is_open = False  # the last call is incomplete
        self._arguments: JsonArguments | FieldArguments = JsonArguments()  # of the last call

    def feed(self, text: str) -> tuple[str, list[CallPart]]:
        """(text that belongs to no call, parts of calls) that are certain now."""
        self.buffer += text
        plain, parts = "", list[CallPart]()
        while True:
            if self.style is None:
                plain += self._text()
                found = None if self.style is None else self._start()
            elif self.is_open and not self._arguments.is_complete:
                found = self._more_arguments()
            else:
                found = self._next()
            if found is None:
                return plain, parts
            parts.append(found)

    def finish(self) -> str:
        """At the end of the answer: the text held back, unless it is the beginning of a call."""
        held, self.buffer = self.buffer, ""
        if self.style is not None:
            return ""
        triggers = {style.trigger for style, _ in self.heads.values() if style.trigger}
        is_call = self.is_forced or any(held.startswith(trigger) for trigger in triggers)
        self.is_open |= is_call
        return "" if is_call else held

    def _text(self) -> str:
        """Release what is no call; sets `style` at the beginning of one."""
        heads = {head: found for head, found in self.heads.items() if found[0].trigger or not self.has_text}
        places = [(at, head) for head in heads if (at := self.buffer.find(head)) == 0 or (at > 0 and heads[head][0].trigger)]
        at = min(places)[0] if places else len(self.buffer) - _num_held(self.buffer, heads)
        plain, self.buffer = self.buffer[:at], self.buffer[at:]
        if (head := _head_of(self.buffer, heads)) is not None:
            self.style, self._head = heads[head][0], head
        self.has_text |= bool(plain)
        return plain

    def _start(self) -> CallPart:
        """The start of the first call."""
        return self._begin(self._head, self.heads[self._head][1])

    def _begin(self, head: str, name: str) -> CallPart:
        assert self.style is not None
        self.buffer = self.buffer[len(head) :]
        self.is_open, fields = True, self.call_format.fields
        self._arguments = FieldArguments(fields, self.style.after, self.functions[name]) if fields else JsonArguments()
        self.num_calls += 1
        return CallPart(self.num_calls - 1, "", name, self._new_id())

    def _more_arguments(self) -> CallPart | None:
        """What there is of the arguments."""
        found, self.buffer = self._arguments.feed(self.buffer)
        return CallPart(self.num_calls - 1, found) if found else None

    def _next(self) -> CallPart | None:
        """Behind the arguments: the end of the call, then the start of the next one."""
        assert self.style is not None
        if self.is_open:
            if not self.buffer.startswith(self.style.after):
                return None
            self.buffer, self.is_open = self.buffer[len(self.style.after) :], False
        heads = {self.style.separator + self.style.head(name): name for name in self.functions}
        head = _head_of(self.buffer, heads)
        return None if head is None else self._begin(head, heads[head])

    def _new_id(self) -> str:
        length = self.call_format.id_length
        return f"call_{secrets.token_hex(12)}" if length is None else "".join(secrets.choice(LETTERS) for _ in range(length))


def _head_of(text: str, heads: Iterable[str]) -> str | None:
    """The longest head that the text begins with; None if there is none, or if more text may make it a longer one."""
    is_open = any(head.startswith(text) and head != text for head in heads)
    return None if is_open else max((head for head in heads if text.startswith(head)), key=len, default=None)


def _num_held(text: str, heads: dict[str, tuple[CallStyle, str]]) -> int:
    """Number of characters at the end of the text that may be the beginning of a head; one without a trigger begins the text."""
    held = 0
    for head, (style, _) in heads.items():
        for length in range(min(len(head) - 1, len(text)), held, -1):
            if text.endswith(head[:length]) and (style.trigger or length == len(text)):
                held = length
                break
    return held
