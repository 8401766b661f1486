"""Finds the calls in an answer while it is written."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

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
    """Splits an answer into text and calls of the functions `names`. Text that may become a call is held back until that is certain."""

    def __init__(self, call_format: CallFormat, names: Sequence[str], is_forced: bool = False):
        self.id_length, self.names, self.is_forced = call_format.id_length, names, is_forced
        self.heads = {style.open + style.head(name): (style, name) for style in call_format.styles for name in names}
        self.buffer = ""
        self.has_text = False  # the answer has begun with something else than a call
        self.style: CallStyle | None = None  # of the calls that have begun
        self.num_calls = 0
        self.is_open = False  # the last call is incomplete
        self._depth, self._in_string, self._is_escaped = 0, False, False

    def feed(self, text: str) -> tuple[str, list[CallPart]]:
        """(text that belongs to no call, parts of calls) that are certain now."""
        self.buffer += text
        plain, parts = "", list[CallPart]()
        while True:
            if self.style is None:
                plain += self._text()
                found = None if self.style is None else self._start()
            elif self._depth >= 0 and self.is_open:
                found = self._arguments()
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
        places = [(self.buffer.find(head), head) for head in heads if head in self.buffer]
        starts = [(at, head) for at, head in places if at == 0 or heads[head][0].trigger]
        if starts:
            at, self._head = min(starts)
            self.style, plain = heads[self._head][0], self.buffer[:at]
            self.buffer = self.buffer[at:]
        else:
            at = len(self.buffer) - _num_held(self.buffer, heads)
            plain, self.buffer = self.buffer[:at], self.buffer[at:]
        self.has_text |= bool(plain)
        return plain

    def _start(self) -> CallPart:
        """The start of the first call."""
        return self._begin(self._head, self.heads[self._head][1])

    def _begin(self, head: str, name: str) -> CallPart:
        self.buffer = self.buffer[len(head) :]
        self.is_open, self._depth = True, 0
        self.num_calls += 1
        return CallPart(self.num_calls - 1, "", name, self._new_id())

    def _arguments(self) -> CallPart | None:
        """What there is of the arguments; afterwards `_depth` is -1 at their end."""
        for at, char in enumerate(self.buffer):
            if self._in_string:
                self._in_string = self._is_escaped or char != '"'
                self._is_escaped = char == "\\" and not self._is_escaped
            elif char in '{}[]"':
                self._in_string = char == '"'
                self._depth += (char in "{[") - (char in "}]")
                if self._depth == 0 and char == "}":
                    found, self.buffer, self._depth = self.buffer[: at + 1], self.buffer[at + 1 :], -1
                    return CallPart(self.num_calls - 1, found)
        found, self.buffer = self.buffer, ""
        return CallPart(self.num_calls - 1, found) if found else None

    def _next(self) -> CallPart | None:
        """Behind the arguments: the end of the call, then the start of the next one."""
        assert self.style is not None
        if self.is_open:
            if not self.buffer.startswith(self.style.after):
                return None
            self.buffer, self.is_open = self.buffer[len(self.style.after) :], False
        for name in self.names:
            head = self.style.separator + self.style.head(name)
            if self.buffer.startswith(head):
                return self._begin(head, name)
        return None

    def _new_id(self) -> str:
        if self.id_length is None:
            return f"call_{secrets.token_hex(12)}"
        return "".join(secrets.choice(LETTERS) for _ in range(self.id_length))


def _num_held(text: str, heads: dict[str, tuple[CallStyle, str]]) -> int:
    """Number of characters at the end of the text that may be the beginning of a head; one without a trigger begins the text."""
    held = 0
    for head, (style, _) in heads.items():
        for length in range(min(len(head) - 1, len(text)), held, -1):
            if text.endswith(head[:length]) and (style.trigger or length == len(text)):
                held = length
                break
    return held
