"""Commands that measure and prove: bench, verify, tune."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from outpace.cli.options import AsJson, Config, Limit, MaxTokens, Model, Precision, Seed, Target, Temperature, Threads, load
from outpace.shell import check_writable, read_json, write_whole


def bench(
    prompts: Annotated[Path, typer.Option(help="JSON lines with prompt, messages or turns.")],
    model: Model = "default",
    drafters: Annotated[str | None, typer.Option(help="Comma-separated. Default: all.")] = None,
    max_tokens: MaxTokens = 128,
    limit: Limit = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each prompt and drafter; medians count.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts that run at once.")] = 1,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the document here; - prints it.")] = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Measure drafters against plain decoding, interleaved prompt by prompt.

    Example: `outpace bench --prompts questions.jsonl --limit 48 --drafters none,blind,prompt_lookup --json out.json`
    """
    from rich.console import Console

    from outpace.bench import report, runner
    from outpace.bench.workloads import read_prompts
    from outpace.core import SamplingParams

    workloads = read_prompts(prompts, limit)
    check_writable(json_out)
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens)
    settings = _drafter_settings(drafters, config)
    document = runner.run(load(model, "none", target, precision, threads, None), workloads, settings, params, repeats, concurrency)
    if str(json_out) == "-":
        typer.echo(json.dumps(document))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in report.tables(document):
        console.print(table)
    if json_out is not None:
        write_whole(json_out, json.dumps(document, indent=2))


def _drafter_settings(drafters: str | None, config: Path | None) -> dict[str, Any]:
    """name -> speculative settings: the drafters named (all, if none are), and those of --config."""
    from outpace.config import SpeculativeConfig
    from outpace.drafters import ready_drafters

    names = [name.strip() for name in drafters.split(",") if name.strip()] if drafters else ready_drafters()
    settings: dict[str, Any] = {name: name for name in names}
    if config is not None:
        settings[str(config)] = SpeculativeConfig.of(read_json(config))
    return settings


def verify(
    model: Model = "default",
    drafters: Annotated[str | None, typer.Option(help="Comma-separated. Default: all.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines; default: a few built-in prompts.")] = None,
    limit: Limit = None,
    max_tokens: MaxTokens = 64,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
) -> None:
    """Prove on this model that speculation changes no token. Exit code 1 if any check fails.

    Example: `outpace verify --prompts questions.jsonl --limit 12`
    """
    from rich.console import Console

    from outpace import verify as proof
    from outpace.bench.workloads import read_prompts, spread

    workloads = read_prompts(prompts, limit) if prompts else proof.built_in_workloads()
    workloads = workloads if prompts or limit is None else spread(workloads, limit)
    settings = {name: value for name, value in _drafter_settings(drafters, config).items() if name != "none"}
    document = proof.verify(load(model, "none", target, precision, threads, None), workloads, settings, max_tokens)
    if as_json:
        typer.echo(json.dumps(document))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in document["checks"]:
            mark = "[green]ok  [/]" if check["passed"] else "[bold red]FAIL[/]"
            console.print(f"{mark} {check['name']}: {check['detail']}")
        console.print("proved" if document["passed"] else "[bold red]NOT PROVED[/]")
    if not document["passed"]:
        raise typer.Exit(1)


def tune(
    prompts: Annotated[Path, typer.Option(help="JSON lines with prompt, messages or turns: prompts like those you will have.")],
    model: Model = "default",
    out: Annotated[Path | None, typer.Option(help="Write the best settings here, for --config.")] = None,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds, after the model is loaded.")] = 300.0,
    drafters: Annotated[str | None, typer.Option(help="Comma-separated. Default: those that usually do well.")] = None,
    limit: Limit = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Annotated[Path | None, typer.Option(help="Speculative settings as JSON: one more candidate.")] = None,
) -> None:
    """Find the way of guessing that is fastest on your prompts and machine, and say how sure that is.

    Example: `outpace tune --prompts questions.jsonl --time-limit 120 --out tuned.json`, then `outpace chat --config tuned.json`
    """
    from outpace.bench.workloads import read_prompts
    from outpace.core import SamplingParams
    from outpace.tune import session
    from outpace.tune.candidates import default_methods, named_methods

    workloads = read_prompts(prompts, limit)
    check_writable(out)
    named = named_methods(drafters, None if config is None else read_json(config))
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens)
    llm = load(model, "none", target, precision, threads, None)
    methods = named if drafters is not None else [*default_methods(llm), *named]
    session.run(llm, workloads, methods, params, time_limit, as_json, out)
