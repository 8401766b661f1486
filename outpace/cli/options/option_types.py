"""The types of options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import typer


def completing(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for an option, from a function that is called when it asks."""

    def matching(incomplete: str) -> list[str]:
        return [word for word in words() if word.startswith(incomplete)]

    return matching


def _model_names() -> Iterable[str]:
    from outpace.models.catalog import NAMES

    return NAMES


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Model: default, tiny, coder-0.5b, coder-1.5b, a hub id, a folder or a .gguf file.",
        autocompletion=completing(_model_names),
    ),
]
Target = Annotated[
    str,
    typer.Option(help="Backend that runs the model: auto, openvino or hf.", autocompletion=completing(lambda: ("auto", "openvino", "hf"))),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of the weights: auto, int8, int4, bf16 or f32.",
        autocompletion=completing(lambda: ("auto", "int8", "int4", "bf16", "f32")),
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads. Default: all cores.")]
NumDraftTokens = Annotated[int | None, typer.Option(min=0, help="Draft tokens per step. Default: that of the drafter.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Maximum tokens to generate.")]
System = Annotated[str | None, typer.Option("--system", "-s", help="System prompt: how the model is to answer.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed; a seed gives the same text with any drafter.")]
Prompts = Annotated[str, typer.Option(help="Prompts: builtin, builtin:code, or a file of JSON lines with prompt, messages or turns.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of prompts to use, spread evenly over the categories.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
