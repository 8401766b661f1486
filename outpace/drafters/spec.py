"""Drafter specs: parses what users type, and builds the drafter.

A spec is `name`, `name:ARGUMENT:key=value:key=value`, `module:Class` for your own class, or several of these as `a+b+c`. The
argument, which may contain colons, is the first option. Installed packages may add names through the entry point group
`outpace.drafters`.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from outpace.drafters import AUTO, AUTO_DRAFTERS, DRAFTERS, ENTRY_POINT_GROUP
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.combined import CombinedDrafter
from outpace.errors import BadInputError
from outpace.heads.shipped import shipped
from outpace.targets.identity import Base

_PATH = re.compile(r"file=|(\w+=)?(/|~|\.{1,2}/)")  # the start of a part of a spec that shows a path of this machine


@dataclass(frozen=True)
class DrafterSpec:
    """A parsed drafter spec: `location` is `module:Class`; `name` is the part before the options, `argument` the parts without "="."""

    name: str
    text: str
    location: str
    options: dict[str, str] = field(default_factory=dict)
    argument: str = ""


def parse_spec(text: str) -> DrafterSpec:
    """Read a drafter spec. Raises BadInputError for an unknown name; imports nothing."""
    name, *rest = text.strip().split(":")
    if name == AUTO:
        raise BadInputError(f"drafter {text!r}: auto is no part of a combination but chooses from one, as in auto:a+b")
    if name in DRAFTERS:
        location = DRAFTERS[name]
    elif rest and rest[0].isidentifier() and all(part.isidentifier() for part in name.split(".")):
        location = f"{name}:{rest.pop(0)}"
    else:
        plugins = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
        if name not in plugins:
            known = ", ".join([*DRAFTERS, AUTO, *plugins])
            raise BadInputError(f"unknown drafter {text!r}; known: {known}, or module:Class")
        location = plugins[name]
    options: dict[str, str] = {}
    for part in rest:
        key, separator, value = part.partition("=")
        if separator and not key.isidentifier():
            raise BadInputError(f"drafter {text!r}: {part!r} is not of the form key=value")
        if separator:
            options[key] = value
    return DrafterSpec(name, text, location, options, ":".join(part for part in rest if "=" not in part))


def load_class(spec: DrafterSpec) -> type[Drafter]:
    """Import the drafter's class. Raises BadInputError when it is missing or no Drafter."""
    module, _, attribute = spec.location.partition(":")
    try:
        found = getattr(_import_named(module) if spec.name == module else import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInputError(f"drafter {spec.text!r}: cannot import {spec.location} ({error})") from error
    if not (inspect.isclass(found) and issubclass(found, Drafter)):
        raise BadInputError(f"drafter {spec.text!r}: {spec.location} is not a subclass of outpace.drafters.base.Drafter")
    return found


def _import_named(module: str) -> ModuleType:
    """Import the module of a `module:Class` spec. If it is not installed, look in the current folder, which is not on the path
    of the script `outpace`."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
    sys.path.append(os.getcwd())  # at the end: nothing there hides an installed module
    try:
        return import_module(module)
    except ModuleNotFoundError:
        sys.path.pop()
        raise


def is_adaptive(text: str) -> bool:
    """Whether this spec is `auto` or `auto:SPEC`."""
    return text.strip().partition(":")[0] == AUTO


def prefixed(name: str, text: str) -> str:
    """The spec with one more drafter in front: `name+a+b`, or `auto:name+a+b`."""
    if is_adaptive(text):
        return f"{AUTO}:{name}+{text.strip().partition(':')[2] or AUTO_DRAFTERS}"
    return f"{name}+{text}"


def parse_specs(text: str) -> list[DrafterSpec]:
    """The parts of `a+b+c`, or of the SPEC of `auto:SPEC`. Raises BadInputError for an unknown name."""
    if is_adaptive(text):
        text = text.strip().partition(":")[2] or AUTO_DRAFTERS
    return [parse_spec(part) for part in text.split("+")]


def shown(text: str) -> str:
    """A spec, or the source of a token, without paths of this machine."""
    parts = [[piece for piece in part.split(":") if not _PATH.match(piece)] for part in text.split("+")]
    return "+".join(":".join(part) for part in parts)


def check_specs(text: str) -> None:
    """Raise BadInputError for a spec that is wrong for every target: unknown names, unknown or malformed options, a missing argument."""
    for spec in parse_specs(text):
        _typed_options(spec, load_class(spec))


def create_drafter(text: str, context: DrafterContext) -> Drafter:
    """Build a drafter, or a combination, from its spec. Raises BadInputError for unknown options or missing capabilities of the target."""
    specs = parse_specs(text)
    parts = [_create(spec, context) for spec in specs]
    if len(parts) == 1 and not is_adaptive(text):
        return parts[0]
    return CombinedDrafter(parts, [spec.name for spec in specs], is_ordered=not is_adaptive(text))


def _create(spec: DrafterSpec, context: DrafterContext) -> Drafter:
    found = load_class(spec)
    for name in ("tree", "hidden", "lookahead"):
        if getattr(found.requires, name) and not getattr(context.target.capabilities, name):
            raise BadInputError(f"drafter {spec.text!r} needs a target with {name!r}, which this one lacks")
    build: Callable[..., Drafter] = found
    return build(context, **_typed_options(spec, found))


def _typed_options(spec: DrafterSpec, found: type[Drafter]) -> dict[str, Any]:
    """Options as the types of the constructor's defaults; the argument is the first of them."""
    known = _parameters(found)
    typed: dict[str, Any] = {}
    options = dict(spec.options)
    if spec.argument:
        first = next(iter(known), None)
        default = known[first].default if first else 0
        if first is None or first in options or default not in (inspect.Parameter.empty, ""):
            raise BadInputError(f"drafter {spec.text!r}: {spec.argument!r} is not of the form key=value")
        options[first] = spec.argument
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and not options.get(key):
            start = spec.name if spec.location != f"{spec.name}:{found.__name__}" else spec.location
            raise BadInputError(f"drafter {spec.text!r} needs a {key}: {start}:{key.upper()}")
    for key, value in options.items():
        if key not in known:
            takes = ", ".join(known) or "no options"
            raise BadInputError(f"drafter {spec.text!r} has no option {key!r}; it takes {takes}")
        default = known[key].default
        kind = type(default) if isinstance(default, (int, float, str)) else str
        try:
            typed[key] = value.lower() in ("1", "true", "yes") if kind is bool else kind(value)
        except ValueError as error:
            raise BadInputError(f"drafter {spec.text!r}: {key} must be {kind.__name__}, not {value!r}") from error
    return typed


def _parameters(found: type[Drafter]) -> dict[str, inspect.Parameter]:
    """The options of a drafter's constructor: all but the context."""
    return dict(list(inspect.signature(found).parameters.items())[1:])


def usage(name: str) -> str:
    """How a spec of this drafter starts: its name and a required argument, as in `draft_model:PATH`. In `medusa[:PATH]` it is optional
    because trained heads ship with outpace for some models."""
    if name == AUTO:
        return f"{AUTO}[:SPEC]"
    found = load_class(parse_spec(name))
    needed = [key for key, p in _parameters(found).items() if p.default is inspect.Parameter.empty]
    return f"{name}[:PATH]" if found.heads_kind else ":".join([name, *(key.upper() for key in needed)])


def ready_drafters(base: Base | None = None) -> list[str]:
    """The specs that need no argument, those of the table and auto; this is what "all drafters" means. `base`: also those whose trained
    heads for this model ship with outpace."""
    names = [name for name in DRAFTERS if usage(name) == name or shipped(load_class(parse_spec(name)).heads_kind, base)]
    return [*names, AUTO]


def catalogue() -> list[tuple[str, str, dict[str, Any]]]:
    """(name, first line of the module's docstring, options with defaults) of every drafter in the table; without a required argument."""
    entries = []
    for name, location in DRAFTERS.items():
        module = import_module(location.partition(":")[0])
        parameters = _parameters(load_class(parse_spec(name))).values()
        options = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        entries.append((name, (module.__doc__ or "").strip().splitlines()[0], options))
    return [
        *entries,
        (
            AUTO,
            f"Drafts what is worth verifying on this machine, with all drafters of SPEC (default {AUTO_DRAFTERS}, and shipped heads).",
            {},
        ),
    ]
