"""What a JSON schema says about single arguments, for formats that write arguments one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
TEXT = frozenset({"string"})
MAX_DEPTH = 16  # of references within references
MAX_LENGTH = 1000  # the largest length of a text that is enforced
NOTES = {"title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment", "$defs", "definitions", "x-guidance"}
OF_OBJECTS = NOTES | {"type", "properties", "required", "additionalProperties"}
OF_TEXTS = NOTES | {"type", "enum", "const", "minLength", "maxLength", "$ref"}


def resolved(schema: Any, root: Any) -> Any:
    """The schema that a local reference leads to; {}, which allows everything, where it leads nowhere."""
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        target = root
        for part in str(schema["$ref"]).removeprefix("#").split("/")[1:]:
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, Mapping) else {}
        schema = target
    return {}


def kinds(schema: Any, root: Any, depth: int = 0, known: dict[int, frozenset[str]] | None = None) -> frozenset[str]:
    """The types of JSON that the schema allows, at most. `known`: by the identity of each part that was looked at, so that references which
    meet again and again cost no more than their parts; a part inside itself allows everything."""
    known, schema = {} if known is None else known, resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return frozenset() if schema is False else KINDS
    if id(schema) not in known:
        known[id(schema)] = KINDS
        known[id(schema)] = _kinds_here(schema, root, depth, known)
    return known[id(schema)]


def _kinds_here(schema: Mapping[str, Any], root: Any, depth: int, known: dict[int, frozenset[str]]) -> frozenset[str]:
    """As `kinds`, for a schema that is no reference and is seen for the first time."""
    found = KINDS
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        found &= {name for name in names if isinstance(name, str)}
    if "const" in schema or isinstance(schema.get("enum"), list):
        found &= frozenset().union(*map(kinds_of, [schema["const"]] if "const" in schema else schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found &= frozenset().union(*(kinds(part, root, depth + 1, known) for part in schema[key]))
    for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
        found &= kinds(part, root, depth + 1, known)
    return found


def kinds_of(value: Any) -> frozenset[str]:
    """The types of a value; a whole number is both an integer and a number."""
    if isinstance(value, bool) or value is None:
        return frozenset({"null" if value is None else "boolean"})
    if isinstance(value, int | float):
        return frozenset({"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"})
    return frozenset({"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"})


def properties(schema: Any) -> dict[str, Any]:
    """The named arguments of a function and their schemas."""
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def required_names(schema: Any) -> list[str]:
    """The arguments that a function needs."""
    found = schema.get("required") if isinstance(schema, Mapping) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def allows_more(schema: Any) -> bool:
    """Whether a function may get arguments that its schema does not name."""
    return not isinstance(schema, Mapping) or schema.get("additionalProperties") is not False


def unenforced(schema: Mapping[str, Any]) -> str | None:
    """A keyword of a function's schema that cannot be enforced where arguments are written one by one; None if all can."""
    if not set(required_names(schema)) <= properties(schema).keys():
        return "required"
    parts = [(schema, OF_OBJECTS)]
    parts += [(resolved(part, schema), OF_TEXTS) for part in properties(schema).values() if "string" in kinds(part, schema)]
    for part, known in parts:
        for key, value in part.items() if isinstance(part, Mapping) else ():
            if key not in known or (key in ("minLength", "maxLength") and value > MAX_LENGTH):
                return str(key)
    return None
