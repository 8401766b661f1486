"""The grammar of an answer with calls, in llguidance's Lark: names of the tools, and arguments that fit their schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outpace.params import StructuredOutput
from outpace.server.api.tools.call_formats import CallFormat, CallStyle
from outpace.server.api.tools.field_grammar import field_rules
from outpace.server.api.tools.lark import as_json, literal, regex

MAX_CALLS = 16  # in one answer
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class CallRules:
    """What an answer may be. `functions`: name -> JSON schema of the arguments; `specials`: text -> id of tokens that are no text.

    `needs_call`: nothing but calls. `answer`: JSON schema of answers without a call; None allows any text.
    """

    call_format: CallFormat
    functions: Mapping[str, Any]
    specials: Mapping[str, int]
    ends: frozenset[int] = frozenset()
    needs_call: bool = False
    is_parallel: bool = True
    answer: Any = None

    @property
    def styles(self) -> tuple[CallStyle, ...]:
        """The styles that the answer may use: the first one for required calls, only those with a trigger beside a JSON answer."""
        styles = self.call_format.styles
        if self.needs_call:
            return styles[:1]
        return styles if self.answer is None else tuple(style for style in styles if style.trigger)

    def grammar(self) -> StructuredOutput:
        """All rules as one grammar. Raises BadInputError if it is too large."""
        lines = [rule for number, style in enumerate(self.styles) for rule in self._style(number, style)]
        for number, schema in enumerate(self.functions.values()):
            if self.call_format.fields is not None:
                lines += field_rules(f"args{number}", schema, self.call_format.fields, self.specials)
                continue
            lines.append(f"args{number}: {as_json(schema)}")
            if any(style.is_loose for style in self.styles):
                lines.append(f"loose{number}: {as_json(schema, is_loose=True)}")
        return StructuredOutput("lark", "\n".join([*self._start(), *lines]))

    def _start(self) -> list[str]:
        calls = " | ".join(f"calls{number}" for number in range(len(self.styles)))
        if self.needs_call:
            return [f"start: {calls}"]
        if self.answer is not None:
            return [f"start: {calls} | answer", f"answer: {as_json(self.answer)}"]
        others = [token for text, token in self.specials.items() if token not in self.ends and text not in self._triggers()]
        text = "(TEXT? " + f"<[{','.join(map(str, others))}]>)* TEXT?" if others else "TEXT?"
        return [f"start: text | {calls}", f"text: {text}", f"TEXT: /(?s:.+)/{self._no_head()}"]

    def _triggers(self) -> set[str]:
        return {style.trigger for style in self.styles}

    def _no_head(self) -> str:
        """A text does not begin as a call that is recognised at the start."""
        names = "|".join(map(re.escape, self.functions))
        heads = [f"{regex(style.before)}({names})" for style in self.styles if not style.trigger]
        return f" & ~/({'|'.join(heads)})(?s:.*)/" if heads else ""

    def _style(self, number: int, style: CallStyle) -> list[str]:
        """calls{number}: text up to the trigger, if text is allowed, then the calls."""
        lead, rules, start = "", [], style.open + style.before
        if style.trigger and not self.needs_call and self.answer is None:
            lead = "text"
            if style.trigger not in self.specials:
                lead, start = f"lead{number}", start.removeprefix(style.trigger)
                rules += [f"{lead}[lazy]: LEAD{number}", f"LEAD{number}: /(?s:.*){regex(style.trigger)}/{self._no_head()}"]
        more = f"({literal(style.separator, self.specials)} call{number}){{0,{MAX_CALLS - 1}}}" if self.is_parallel else ""
        rules.append(f"calls{number}: {lead} first{number} {more} {literal(style.close, self.specials)}")
        rules.append(f"first{number}: {self._call(style, start)}")
        return [*rules, f"call{number}: {self._call(style, style.before)}"] if more else rules

    def _call(self, style: CallStyle, before: str) -> str:
        """A call of any function; its head is one literal, so that it cannot be confused with text."""
        arguments = "loose" if style.is_loose else "args"
        return " | ".join(
            f"{literal(before + name + style.between, self.specials)} {arguments}{number} {literal(style.after, self.specials)}"
            for number, name in enumerate(self.functions)
        )


def arguments_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of a function's arguments, which are always an object."""
    if parameters is None:
        return NO_ARGUMENTS
    kind = parameters.get("type")
    return {**parameters, "type": "object"} if kind is None or (isinstance(kind, Sequence) and "object" in kind) else dict(parameters)
