"""How model families write calls of functions. A family is found by its chat template; a new one is a line in CALL_FORMATS."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class CallStyle:
    """One way to write calls: `open`, then calls with `separator` between them, then `close`. A call is `before`, the function's name,
    `between`, the arguments, `after`.

    `trigger` is what `open` + `before` begin with, and no other text contains. Without one, calls are recognised at the start of an
    answer only. `is_loose`: the arguments may have any white space.
    """

    before: str
    between: str
    after: str
    open: str = ""
    separator: str = ""
    close: str = ""
    trigger: str = ""
    is_loose: bool = False

    def head(self, name: str) -> str:
        """What comes before the arguments of a call."""
        return f"{self.before}{name}{self.between}"


@dataclass(frozen=True)
class FieldStyle:
    """Arguments written one by one: `before`, the argument's name, `between`, its value, `after`. Texts are written as they are, without
    quotes, all other values as JSON."""

    before: str
    between: str
    after: str


@dataclass(frozen=True)
class CallFormat:
    """The styles of one family, the one for calls that the client requires first.

    `template`: a regular expression that its chat templates contain. `id_length`: length of a call's id, if the templates insist on one.
    `fields`: how arguments are written; None for one JSON object.
    """

    name: str
    template: str
    styles: tuple[CallStyle, ...]
    id_length: int | None = None
    fields: FieldStyle | None = None


BARE = CallStyle('{"name": "', '", "arguments": ', "}", separator="\n")
FENCED = CallStyle('```json\n{\n  "name": "', '",\n  "arguments": ', "\n}\n```", separator="\n", is_loose=True)
TAGGED = CallStyle('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", separator="\n", trigger="<tool_call>")
LLAMA = CallStyle('{"name": "', '", "parameters": ', "}", separator="; ")
LLAMA_TAGGED = CallStyle('{"name": "', '", "parameters": ', "}", open="<|python_tag|>", separator="; ", trigger="<|python_tag|>")
MISTRAL = CallStyle('{"name": "', '", "arguments": ', "}", "[TOOL_CALLS][", ", ", "]", "[TOOL_CALLS]")
MISTRAL_SPACED = CallStyle('{"name": "', '", "arguments": ', "}", "[TOOL_CALLS] [", ", ", "]", "[TOOL_CALLS]")
MISTRAL_ARGS = CallStyle("[TOOL_CALLS]", "[ARGS]", "", trigger="[TOOL_CALLS]")
TAGS = CallStyle("<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", separator="\n", trigger="<tool_call>")
TAGS_BARE = CallStyle("<function=", ">\n", "</function>", separator="\n")
PARAMETERS = FieldStyle("<parameter=", ">\n", "\n</parameter>\n")
GLM = CallStyle("<tool_call>", "\n", "</tool_call>", separator="\n", trigger="<tool_call>")
GLM_FIELDS = FieldStyle("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
GLM_DENSE = CallStyle("<tool_call>", "", "</tool_call>", trigger="<tool_call>")
GLM_DENSE_FIELDS = FieldStyle("<arg_key>", "</arg_key><arg_value>", "</arg_value>")

CALL_FORMATS = (  # the first whose template fits; small Hermes models often leave the tags out
    CallFormat("hermes", r"(?s)<tool_call>(?!.*(<function=|<arg_key>)).*\"arguments\"", (TAGGED, BARE, FENCED)),
    CallFormat("qwen-tags", r"(?s)<function=.*<parameter=", (TAGS, TAGS_BARE), fields=PARAMETERS),
    CallFormat("glm", r"</arg_key>(\n|\\n)<arg_value>", (GLM,), fields=GLM_FIELDS),
    CallFormat("glm-dense", r"</arg_key><arg_value>", (GLM_DENSE,), fields=GLM_DENSE_FIELDS),
    CallFormat("llama3", r"\"parameters\": ", (LLAMA, LLAMA_TAGGED)),
    CallFormat("mistral-args", r"(?s)\[TOOL_CALLS\].*\[ARGS\]", (MISTRAL_ARGS,), id_length=9),
    CallFormat("mistral-spaced", r"\[TOOL_CALLS\] \[", (MISTRAL_SPACED,), id_length=9),
    CallFormat("mistral", r"\[TOOL_CALLS\]", (MISTRAL,), id_length=9),
)
UNKNOWN = CallFormat("json", "", (BARE,))  # for calls that the client requires of any other model


def call_format(template: str | None) -> CallFormat | None:
    """The format of a chat template's family; None if it is not in the table."""
    return next((found for found in CALL_FORMATS if re.search(found.template, template or "")), None)
