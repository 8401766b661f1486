"""The command `outpace verify`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from outpace.cli.bench_server import levels_of
from outpace.cli.options import (
    AsJson,
    Config,
    Device,
    ExactWidth,
    Limit,
    MaxTokens,
    Model,
    Precision,
    Prompts,
    Target,
    Threads,
    drafter_settings,
    load,
)

NUM_TIES = 10  # near ties that are printed


def verify(
    model: Model = "default",
    drafters: Annotated[str | None, typer.Option(help="Drafters to verify, comma-separated. Default: all.")] = None,
    prompts: Prompts = "builtin",
    limit: Limit = 6,
    max_tokens: MaxTokens = 64,
    temperature: Annotated[str, typer.Option(help="Sampling temperatures, comma-separated.")] = "0,0.8",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per temperature above 0.")] = 1,
    concurrency: Annotated[str, typer.Option(help="Numbers of prompts that run at once, comma-separated.")] = "1,4",
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    device: Device = "auto",
    exact_width: ExactWidth = None,
    config: Config = None,
) -> None:
    """Check on this model that speculation changes no token. Exit code 1 if any check fails.

    Example: `outpace verify --prompts questions.jsonl --limit 12 --temperature 0,0.5,1 --seeds 3`
    """
    from rich.console import Console

    from outpace.bench.builtin import load_prompts
    from outpace.bench.temperatures import parse_temperatures
    from outpace.testing import proof

    trials = proof.Trials(parse_temperatures(temperature), seeds, levels_of(concurrency, "--concurrency"), max_tokens)
    workloads = load_prompts(prompts, limit)
    llm = load(model, "none", target, precision, threads, None, None, None, device, exact_width)
    settings = {name: value for name, value in drafter_settings(drafters, config, llm.target.base).items() if name != "none"}
    document = proof.verify(llm, workloads, settings, trials)
    if as_json:
        typer.echo(json.dumps(document))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in document["checks"]:
            mark = "[green]ok  [/]" if check["passed"] else "[bold red]FAIL[/]"
            console.print(f"{mark} {check['name']}: {check['detail']}")
        for tie in document["near_ties"][:NUM_TIES]:
            console.print(_near_tie(tie), markup=False)
        console.print(f"false alarms: {document['false_alarms']}", markup=False)
        console.print(f"{'passed' if document['passed'] else 'FAILED'}: {document['claim']}", markup=False)
    if not document["passed"]:
        raise typer.Exit(1)


def _near_tie(tie: dict[str, Any]) -> str:
    where = f"temperature {tie['temperature']:g}, seed {tie['seed']}, {tie['at_once']} at once"
    return f"near tie: {tie['drafter']}, prompt {tie['prompt']}, token {tie['token']}, a change of two logits by {tie['gap']:.1g} ({where})"
