"""Options that exclude or need each other. What is typed goes first: an option from the settings file that does not fit is left out, with a
note if another option of that file is the reason."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from outpace.cli.options.spread import own_parameters, signed
from outpace.errors import BadInputError
from outpace.progress import note

Test = Callable[[Any], bool]


def _always(value: Any) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """`others` cannot be used with `option`, or, if `is_needed`, without it. These are names of parameters.

    `message` may have {option}, {other} and {value}, the value of `option`; without one, both can be typed. The tests say which values
    count, of those that are not the default.
    """

    option: str
    others: tuple[str, ...]
    message: str
    is_needed: bool = False
    of_option: Test = _always
    of_others: Test = _always


def excludes(
    option: str,
    *others: str,
    message: str = "{other} cannot be used with {option}",
    of_option: Test = _always,
    of_others: Test = _always,
) -> Rule:
    """The rule that `others` cannot be used with `option`."""
    return Rule(option, others, message, False, of_option, of_others)


def needs(option: str, *others: str, message: str = "{other} needs {option}") -> Rule:
    """The rule that `others` need `option`."""
    return Rule(option, others, message, True)


def goes_before(option: str, *others: str) -> Rule:
    """The rule that `option` goes before `others`, unless they are typed and it is not. Nothing is refused; the command gets both if both
    are typed, or both come from the settings file."""
    return Rule(option, others, "")


def one_of(*options: str, message: str) -> tuple[Rule, ...]:
    """The rules that at most one of these options can be used."""
    return tuple(excludes(option, *options[place + 1 :], message=message) for place, option in enumerate(options[:-1]))


def with_rules(*rules: Rule) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command, after its options are spread: rules that are broken on the command line raise BadInputError."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = own_parameters(command)
        defaults = {parameter.name: parameter.default for parameter in own}
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        def run(context: typer.Context, **options: Any) -> None:
            names = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
            command(**settled(options, defaults, rules, lambda name: _is_typed(context, name), names))

        return signed(command, run, [context, *own])

    return decorate


def settled(
    options: Mapping[str, Any], defaults: Mapping[str, Any], rules: Sequence[Rule], is_typed: Test, names: Mapping[str, str]
) -> dict[str, Any]:
    """The options without those of the settings file that break a rule. `names`: how options are typed. Raises BadInputError."""
    kept = dict(options)
    for rule in rules:
        for other in rule.others:
            has_option = _is_used(kept, defaults, rule.option) and rule.of_option(kept[rule.option])
            if has_option == rule.is_needed or not _is_used(kept, defaults, other) or not rule.of_others(kept[other]):
                continue
            are_alike = not rule.is_needed and is_typed(rule.option) == is_typed(other)
            if are_alike and not rule.message:
                continue
            if is_typed(other) and (rule.is_needed or are_alike):
                words = {"option": names[rule.option], "other": names[other], "value": kept[rule.option]}
                raise BadInputError(rule.message.format(**words))
            if are_alike:
                note(f"your settings have {names[rule.option]} and {names[other]}: {names[other]} is left out")
            loser = rule.option if is_typed(other) else other
            kept[loser] = defaults[loser]
    return kept


def _is_used(options: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> bool:
    return options[name] not in (defaults[name], [], ())


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
