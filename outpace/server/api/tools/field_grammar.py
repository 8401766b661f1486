"""The grammar of arguments that are written one by one, in llguidance's Lark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from outpace.server.api.tools.call_formats import FieldStyle
from outpace.server.api.tools.field_schema import MAX_LENGTH, TEXT, allows_more, kinds, properties, required_names, resolved
from outpace.server.api.tools.lark import as_json, literal, pieces, quote, regex

WORDS = {"boolean": ("true", "True", "false", "False"), "null": ("null", "None")}  # of JSON and of Python: models are taught both
NAME = r"[^<>\n]+"  # of an argument that the schema does not name


def field_rules(rule: str, schema: Any, style: FieldStyle, specials: Mapping[str, int]) -> list[str]:
    """The rule with this name, for the arguments of one function, and the rules that it needs. Arguments come in the schema's order, and
    those that it does not name at the end, where it allows them."""
    named, required = properties(schema), required_names(schema)
    lines, order = list[str](), list[str]()
    for number, (name, part) in enumerate(named.items()):
        own = f"{rule}_{number}"
        lines.append(f"{own}: {literal(style.before + name + style.between, specials)} {own}_value")
        lines += _value(f"{own}_value", resolved(part, schema), schema, style, specials)
        order.append(own if name in required else f"{own}?")
    if allows_more(schema):
        lines += _more(f"{rule}_more", list(named), style, specials)
        lines += _text(f"{rule}_more_value", {}, style, specials)
        order.append(f"{rule}_more*")
    return [f"{rule}: {' '.join(order) or quote('')}", *lines]


def _more(rule: str, names: list[str], style: FieldStyle, specials: Mapping[str, int]) -> list[str]:
    """The head of an argument with another name than these, and its value. Name and text around it are one lexeme."""
    before, between = pieces(style.before, specials), pieces(style.between, specials)
    start = "" if before[-1] in specials else before.pop()
    end = "" if between[0] in specials else between.pop(0)
    others = f" & ~/{regex(start)}({'|'.join(map(regex, names))}){regex(end)}/" if names else ""
    name = rule.upper()
    parts = [literal("".join(before), specials), name, literal("".join(between), specials), f"{rule}_value"]
    return [f"{rule}: {' '.join(part for part in parts if part)}", f"{name}: /{regex(start)}{NAME}{regex(end)}/{others}"]


def _value(rule: str, schema: Any, root: Any, style: FieldStyle, specials: Mapping[str, int]) -> list[str]:
    """A value of an argument, and what follows it."""
    found, end = kinds(schema, root), literal(style.after, specials)
    schema = schema if isinstance(schema, Mapping) else {}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return [f"{rule}: {' | '.join(literal(_written(value) + style.after, specials) for value in values)}"]
    if "string" in found:
        return _text(rule, schema if found == TEXT else {}, style, specials)
    words = " | ".join(quote(word) for kind in WORDS if kind in found for word in WORDS[kind])
    if found <= WORDS.keys():
        return [f"{rule}: ({words}) {end}"]
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    json_rule = f"{rule}_json: {as_json({**definitions, **schema})}"
    return [f"{rule}: ({words + ' | ' if words else ''}{rule}_json) {end}", json_rule]


def _text(rule: str, schema: Mapping[str, Any], style: FieldStyle, specials: Mapping[str, int]) -> list[str]:
    """A text without quotes, and what follows it."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    count = f"{{{min(least, MAX_LENGTH)},{'' if most is None or most > MAX_LENGTH else most}}}"
    first, *rest = pieces(style.after, specials)
    if first in specials:
        text = f"{rule.upper()}{'' if least else '?'}"
        return [f"{rule}: {text} {literal(style.after, specials)}", f"{rule.upper()}: /(?s:.{count})/"]
    behind = literal("".join(rest), specials)
    return [f"{rule}: {rule}_text {behind}", f"{rule}_text[lazy]: {rule.upper()}", f"{rule.upper()}: /(?s:.{count}){regex(first)}/"]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
