"""Options that several commands share, and the functions that apply them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.errors import BadInputError
from outpace.files import read_json, write_whole

if TYPE_CHECKING:
    from outpace.llm import LLM
    from outpace.targets.identity import Base


def _completing(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for an option, from a function that is called when it asks."""

    def matching(incomplete: str) -> list[str]:
        return [word for word in words() if word.startswith(incomplete)]

    return matching


def _model_names() -> Iterable[str]:
    from outpace.models.catalog import NAMES

    return NAMES


def _drafter_names() -> Iterable[str]:
    from outpace.drafters import AUTO, DRAFTERS

    return (*DRAFTERS, AUTO)


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Model: default, tiny, coder-0.5b, coder-1.5b, a hub id, a folder or a .gguf file.",
        autocompletion=_completing(_model_names),
    ),
]
Drafter = Annotated[
    str | None,
    typer.Option(help="Drafter to use; `outpace drafters` lists them. Default: prompt_lookup.", autocompletion=_completing(_drafter_names)),
]
NumDraftTokens = Annotated[int | None, typer.Option(min=0, help="Draft tokens per step. Default: that of the drafter.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Maximum tokens to generate.")]
Temperature = Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 always takes the likeliest token.")]
System = Annotated[str | None, typer.Option("--system", "-s", help="System prompt: how the model is to answer.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed; a seed gives the same text with any drafter.")]
Target = Annotated[
    str,
    typer.Option(help="Backend that runs the model: auto, openvino or hf.", autocompletion=_completing(lambda: ("auto", "openvino", "hf"))),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of the weights: auto, int8, int4, bf16 or f32.",
        autocompletion=_completing(lambda: ("auto", "int8", "int4", "bf16", "f32")),
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads. Default: all cores.")]
Device = Annotated[str, typer.Option(help="Device of target hf: auto, cpu, cuda or cuda:N.")]
ExactWidth = Annotated[
    int | None, typer.Option(min=2, help="Target hf: always run this many tokens, so that drafts change no token in 16 bits either.")
]
Prompts = Annotated[str, typer.Option(help="Prompts: builtin, builtin:code, or a file of JSON lines with prompt, messages or turns.")]


def _adopt(context: typer.Context, path: Path | None) -> Path | None:
    """Let the file of --config set the defaults of the options that load the model."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **loading_settings(read_json(path))}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        help="JSON file with settings, as written by `outpace tune`: drafter, model, target, precision and threads. Options go first.",
        callback=_adopt,
        is_eager=True,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of prompts to use, spread evenly over the categories.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def loading_settings(document: Any) -> dict[str, Any]:
    """How a settings file says to load the model: the options that stand under "load". Raises BadInputError."""
    found = document.get("load", {}) if isinstance(document, dict) else {}
    known = ("model", "target", "precision", "threads", "device", "exact_width")
    if not isinstance(found, dict) or not found.keys() <= set(known):
        raise BadInputError(f'"load" in a settings file is an object with {", ".join(known)}, not {found!r:.80}')
    return found


def messages_of(system: str | None, text: str) -> list[dict[str, str]]:
    """A conversation of one question, after the system prompt if there is one."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def load(
    model: str,
    drafter: str | None,
    target: str,
    precision: str,
    threads: int | None,
    config: Path | None,
    count: int | None = None,
    engine: dict[str, Any] | None = None,
    device: str = "auto",
    exact_width: int | None = None,
) -> LLM:
    """Build the LLM from a command's options."""
    from outpace.llm import LLM

    return LLM(**llm_arguments(model, drafter, target, precision, threads, config, count, engine, device, exact_width))


def llm_arguments(
    model: str,
    drafter: str | None,
    target: str,
    precision: str,
    threads: int | None,
    config: Path | None,
    count: int | None = None,
    engine: dict[str, Any] | None = None,
    device: str = "auto",
    exact_width: int | None = None,
) -> dict[str, Any]:
    """The arguments of LLM from a command's options; `--drafter` takes precedence over `--config`."""
    speculative: Any = drafter if drafter is not None or config is None else read_json(config)
    common = {"target": target, "precision": precision, "threads": threads, "num_draft_tokens": count, "engine": engine}
    return {"model": model, "speculative_config": speculative, "device": device, "exact_width": exact_width, **common}


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


def table_width() -> int:
    """Characters in a line of the terminal; 120 where the output goes elsewhere."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 120


def show_document(document: dict[str, Any], tables: Sequence[Any], json_out: Path | None, page_out: Path | None = None) -> None:
    """Print a measurement as tables, and write the document and a page of it to files; with `-` for the document, print only it."""
    from rich.console import Console

    if page_out is not None:
        from outpace.bench.page.render import page

        write_whole(page_out, page(document))
    if str(json_out) == "-":
        typer.echo(json.dumps(document))
        return
    console = Console(width=table_width())
    for table in tables:
        console.print(table)
    if json_out is not None:
        write_whole(json_out, json.dumps(document, indent=2))
