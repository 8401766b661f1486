"""The command `outpace verify`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

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


def verify(
    model: Model = "default",
    drafters: Annotated[str | None, typer.Option(help="Drafters to verify, comma-separated. Default: all.")] = None,
    prompts: Prompts = "builtin",
    limit: Limit = 6,
    max_tokens: MaxTokens = 64,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    device: Device = "auto",
    exact_width: ExactWidth = None,
    config: Config = None,
) -> None:
    """Check on this model that speculation changes no token. Exit code 1 if any check fails.

    Example: `outpace verify --prompts questions.jsonl --limit 12`
    """
    from rich.console import Console

    from outpace.bench.builtin import load_prompts
    from outpace.testing import proof

    workloads = load_prompts(prompts, limit)
    llm = load(model, "none", target, precision, threads, None, None, None, device, exact_width)
    settings = {name: value for name, value in drafter_settings(drafters, config, llm.target.base).items() if name != "none"}
    document = proof.verify(llm, workloads, settings, max_tokens)
    if as_json:
        typer.echo(json.dumps(document))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in document["checks"]:
            mark = "[green]ok  [/]" if check["passed"] else "[bold red]FAIL[/]"
            console.print(f"{mark} {check['name']}: {check['detail']}")
        num_runs = len(workloads) * len(proof.TEMPERATURES) * (len(settings) + 1)
        failed = sum(not check["passed"] for check in document["checks"])
        found = "no difference found" if document["compared"] == "bits" else "no difference found that rounding does not explain"
        passed = f"passed: {len(workloads)} prompts, {num_runs} runs, {found}"
        console.print(passed if document["passed"] else f"[bold red]FAILED: {failed} of {len(document['checks'])} checks[/]")
    if not document["passed"]:
        raise typer.Exit(1)
