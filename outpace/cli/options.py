"""What the commands share: their options, and building the LLM that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.shell import read_json

if TYPE_CHECKING:
    from outpace.llm import LLM

Model = Annotated[str, typer.Option(help="default, a hub id, a folder or a .gguf file.")]
Drafter = Annotated[str | None, typer.Option(help="How to guess; `outpace drafters` lists them. Default: prompt_lookup.")]
NumDraftTokens = Annotated[int | None, typer.Option(min=0, help="Guesses a step. Default: the drafter's own.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option(help="Sample from the likeliest tokens that reach this probability together.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text, with any drafter.")]
Target = Annotated[str, typer.Option(help="auto, openvino or hf.")]
Precision = Annotated[str, typer.Option(help="auto, int8, bf16 or f32.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")]
Config = Annotated[Path | None, typer.Option(help="Speculative settings as JSON, as written by `outpace tune`.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take so many prompts, spread evenly over the categories.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def load(
    model: str, drafter: str | None, target: str, precision: str, threads: int | None, config: Path | None, count: int | None = None
) -> LLM:
    """Build the LLM that a command asked for; `--drafter` wins over `--config`."""
    from outpace.llm import LLM

    speculative: Any = drafter if drafter is not None or config is None else read_json(config)
    return LLM(model, speculative, target=target, precision=precision, threads=threads, num_draft_tokens=count)
