"""The options that load a model and choose its drafter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.options.option_types import Model, NumDraftTokens, Precision, Target, Threads, completing
from outpace.cli.options.rules import goes_before
from outpace.errors import BadInputError
from outpace.files import read_json

if TYPE_CHECKING:
    from outpace.llm import LLM
    from outpace.targets.identity import Base


def _drafter_names() -> Iterable[str]:
    from outpace.drafters import AUTO, DRAFTERS

    return (*DRAFTERS, AUTO)


def _adopt(context: typer.Context, path: Path | None) -> Path | None:
    """Let the file of --config set the defaults of the options that load the model."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **loading_settings(read_json(path))}
    return path


Drafter = Annotated[
    str | None,
    typer.Option(help="Drafter to use; `outpace drafters` lists them. Default: auto.", autocompletion=completing(_drafter_names)),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="JSON file with settings, as written by `outpace tune`: drafter, model, target, precision and threads. Options go first.",
        callback=_adopt,
        is_eager=True,
    ),
]
ExactWidth = Annotated[
    int | None, typer.Option(min=2, help="Target hf: always run this many tokens, so that drafts change no token in 16 bits either.")
]


@dataclass(frozen=True)
class ModelChoice:
    """A model, and in which form the processor runs it."""

    model: Model = "default"
    target: Target = "auto"
    precision: Precision = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class Loading(ModelChoice):
    """Which model a command loads, and how it computes."""

    device: Annotated[str, typer.Option(help="Device of target hf: auto, cpu, cuda or cuda:N.")] = "auto"
    exact_width: ExactWidth = None

    def arguments(self, drafter: Any = None, engine: dict[str, Any] | None = None) -> dict[str, Any]:
        """The arguments of LLM. `drafter`: its name or settings, where no option says which; None is the default of LLM."""
        return {**{option: getattr(self, option) for option in LOADING}, "speculative_config": drafter, "engine": engine}

    def llm(self, drafter: Any = None, engine: dict[str, Any] | None = None) -> LLM:
        """The model, loaded. The parameters are those of `arguments`."""
        from outpace.llm import LLM

        return LLM(**self.arguments(drafter, engine))


LOADING = tuple(field.name for field in fields(Loading))


@dataclass(frozen=True)
class Drafting(Loading):
    """Which model a command loads, and what drafts for it."""

    drafter: Drafter = None
    num_draft_tokens: NumDraftTokens = None
    config: Config = None

    def arguments(self, drafter: Any = None, engine: dict[str, Any] | None = None) -> dict[str, Any]:
        """Those of `Loading`, with the drafter of --drafter, else of --config."""
        chosen = chosen_drafter(self.drafter, self.config, drafter)
        return {**super().arguments(chosen, engine), "num_draft_tokens": self.num_draft_tokens}


DRAFTER_RULE = goes_before("drafter", "config")


def chosen_drafter(drafter: str | None, config: Path | None, otherwise: Any = None) -> Any:
    """What --drafter says, else the settings in the file of --config, else `otherwise`."""
    if drafter is not None:
        return drafter
    return otherwise if config is None else read_json(config)


def loading_settings(document: Any) -> dict[str, Any]:
    """How a settings file says to load the model: the options that stand under "load". Raises BadInputError."""
    found = document.get("load", {}) if isinstance(document, dict) else {}
    if not isinstance(found, dict) or not found.keys() <= set(LOADING):
        raise BadInputError(f'"load" in a settings file is an object with {", ".join(LOADING)}, not {found!r:.80}')
    return found


def drafter_settings(drafters: str | None, config: Path | None, base: Base | None = None) -> dict[str, Any]:
    """name -> speculative settings: the named drafters (by default all that are ready for this model), and the settings of --config."""
    from outpace.config import SpeculativeConfig
    from outpace.drafters.spec import ready_drafters

    names = [name.strip() for name in drafters.split(",") if name.strip()] if drafters else ready_drafters(base)
    settings: dict[str, Any] = {name: name for name in names}
    if config is not None:
        settings[str(config)] = SpeculativeConfig.of(read_json(config))
    return settings


def with_num_draft_tokens(settings: dict[str, Any], count: int | None) -> dict[str, Any]:
    """The same settings with `count` draft tokens per step, which is added to their names; unchanged if `count` is None."""
    from outpace.config import SpeculativeConfig

    if count is None:
        return settings
    return {
        f"{name}, {count} guesses": replace(SpeculativeConfig.of(setting), num_draft_tokens=count) for name, setting in settings.items()
    }
