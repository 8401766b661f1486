"""The command `outpace demo`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli.options.loading import DRAFTER_RULE, Config, Loading, chosen_drafter
from outpace.cli.options.rules import with_rules
from outpace.cli.options.spread import spread
from outpace.errors import OutpaceError
from outpace.progress import note

if TYPE_CHECKING:
    from outpace.llm import LLM

Drafter = Annotated[str | None, typer.Option(help="Drafter to compare with plain decoding; `outpace drafters` lists them. Default: auto.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Maximum tokens to generate. Default: 200, and for the edit the whole file.")]


@with_rules(DRAFTER_RULE)
@spread(Loading)
def demo(
    max_tokens: MaxTokens = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    *,
    loading: Loading,
    drafter: Drafter = None,
    config: Config = None,
) -> None:
    """Summarise a document and edit a source file, and compare plain and speculative decoding side by side.

    Example: `outpace demo --max-tokens 100`
    """
    from rich.console import Console

    from outpace.cli import side_by_side
    from outpace.models.catalog import DEFAULT_MODEL, SMALLEST
    from outpace.models.fetch import NoSourceError

    console = Console(stderr=as_json, highlight=False)

    def opened(name: str) -> LLM:
        return replace(loading, model=name).llm(chosen_drafter(drafter, config))

    try:
        llm = opened(loading.model)
    except NoSourceError as error:
        if loading.model != DEFAULT_MODEL:
            raise
        note(f"{error}; going on with the model {SMALLEST}, which repeats itself")
        llm = opened(SMALLEST)
    compared = []
    for job in side_by_side.jobs():
        compared.append(side_by_side.run(llm, job, max_tokens, console))
        if not as_json:
            console.print(side_by_side.render(compared[-1]))
    if as_json:
        summary, edit = map(side_by_side.summary, compared)
        typer.echo(json.dumps({**summary, "edit": edit}, ensure_ascii=False))
    if not all(job.is_identical for job in compared):
        raise OutpaceError("the two answers differ; `outpace verify` says more")
