"""The user's settings file: default values of the commands' options, in TOML.

A key at the top sets an option of every command that has it, a table such as `[chat]` or `[train.medusa]` those of one command. Options on
the command line and the file of --config go first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError

NOT_SHARED = {("export", "model")}  # the model that heads were trained for, by default the one named in their folder
EXAMPLE = """\
model = "coder-1.5b"   # for every command that has --model
threads = 2

[chat]
temperature = 0.5
system = "Answer in one sentence."
"""


def config_path() -> Path:
    """Where the file is, whether or not it exists: OUTPACE_CONFIG, or config.toml in the user's configuration folder."""
    from platformdirs import user_config_path

    return Path(os.environ.get("OUTPACE_CONFIG") or user_config_path("outpace") / "config.toml").expanduser()


def default_map(context: Any) -> dict[str, Any]:
    """The file's defaults for all commands of the group of this context, nested as click wants them; empty without a file.

    Raises BadInputError for a file that cannot be read, and for keys and values that no command takes.
    """
    path = config_path()
    if not path.is_file():
        return {}
    document = _read(path)
    shared = {key: value for key, value in document.items() if not isinstance(value, dict)}
    if os.environ.get("OUTPACE_MODEL"):  # goes before the file
        shared.pop("model", None)
    try:
        unused = set(map(_key, shared))
        found = _for_group(context, context.command, document, shared, unused)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from error
    if unused:
        raise BadInputError(f"{path}: no command has an option {min(unused)!r}")
    return found


def settings_of(defaults: Mapping[str, Any], words: str = "") -> Iterator[tuple[str, str, Any]]:
    """(command, option, value) of every default in such a nested mapping."""
    for name, value in defaults.items():
        if isinstance(value, dict):
            yield from settings_of(value, f"{words} {name}".strip())
        else:
            yield words, name, value


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    from outpace.files import read_text

    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{path} is not TOML: {error}") from error


def _for_group(context: Any, group: Any, tables: Mapping[str, Any], shared: Mapping[str, Any], unused: set[str]) -> dict[str, Any]:
    """The defaults of the commands of a group. What is taken from `shared` leaves `unused`."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        own = {key: value for key, value in tables.get(name, {}).items() if not isinstance(value, dict)}
        values = _for_command(context, command, shared, own, name, unused)
        if hasattr(command, "commands"):
            values |= _for_group(context, command, tables.get(name, {}), shared, unused)
        if values:
            found[name] = values
    tables_here = {key for key, value in tables.items() if isinstance(value, dict)}
    if strangers := tables_here - group.commands.keys():
        raise BadInputError(f"there is no command {min(strangers)!r}")
    return found


def _for_command(
    context: Any, command: Any, shared: Mapping[str, Any], own: Mapping[str, Any], name: str, unused: set[str]
) -> dict[str, Any]:
    """The defaults of one command, by the names of its parameters."""
    options = {_key(option): parameter for parameter in command.params for option in parameter.opts if option.startswith("--")}
    found = {}
    for source in (shared, own):  # a command's own table goes before the keys at the top
        for key, value in source.items():
            parameter = options.get(_key(key))
            if source is shared and (name, key) in NOT_SHARED:
                continue
            if parameter is not None:
                found[parameter.name] = _checked(context, parameter, key, value)
                unused.discard(_key(key))
            elif source is own:
                raise BadInputError(f"{name} has no option {key!r}")
    return found


def _key(option: str) -> str:
    """An option's name as a key of the file: without dashes in front, and with - and _ alike."""
    return option.removeprefix("--").replace("_", "-")


def _checked(context: Any, parameter: Any, key: str, value: Any) -> Any:
    """The value in the form that the command line takes. Raises BadInputError if the option does not take it."""
    if getattr(parameter, "multiple", False) and not isinstance(value, list):
        value = [value]
    if parameter.callback is None:
        try:
            parameter.process_value(context, value)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            raise BadInputError(f"{key}: {getattr(error, 'message', None) or error.format_message()}") from error
    return value
