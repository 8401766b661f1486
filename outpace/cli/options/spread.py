"""Groups of options that several commands share: a dataclass whose fields become options of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, get_type_hints


def parameters_of(
    group: type, hints: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters that typer reads; `hints` and `defaults` replace annotations and default values by name."""
    annotations = {**_hints(group), **(hints or {})}
    values = {field.name: inspect.Parameter.empty if field.default is MISSING else field.default for field in fields(group)}
    values |= defaults or {}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotations[name])
        for name, value in values.items()
    ]


@functools.cache
def _hints(group: type) -> dict[str, Any]:
    return get_type_hints(group, include_extras=True)


def own_parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    """The parameters of a function, by name only, with their annotations as types."""
    hints = get_type_hints(command, include_extras=True)
    found = inspect.signature(command).parameters.values()
    return [one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name]) for one in found]


def signed(command: Callable[..., None], run: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """`run` in the place of `command`, with these parameters as its options."""
    functools.update_wrapper(run, command)
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def spread(group: type, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command that has one parameter of type `group`, a dataclass: its fields become options in the place of that parameter.
    `defaults` are this command's own default values."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shared = parameters_of(group, defaults=defaults)
        own = own_parameters(command)
        place = next(index for index, parameter in enumerate(own) if parameter.annotation is group)

        def run(**options: Any) -> None:
            given = {parameter.name: options.pop(parameter.name) for parameter in shared}
            command(**options, **{own[place].name: group(**given)})

        return signed(command, run, [*own[:place], *shared, *own[place + 1 :]])

    return decorate
