"""Commands that measure and prove: bench, verify, tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.load import bench_server, levels_of
from outpace.cli.options import (
    AsJson,
    Config,
    Limit,
    MaxTokens,
    Model,
    NumDraftTokens,
    Precision,
    Seed,
    Target,
    Temperature,
    Threads,
    drafter_settings,
    load,
    show_document,
    with_num_draft_tokens,
)
from outpace.errors import BadInputError
from outpace.shell import check_writable, read_json


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
    server: Annotated[str | None, typer.Option(metavar="[URL]", help="Put a server under load; without a URL, one started here.")] = None,
    clients: Annotated[str | None, typer.Option(help="With --server: clients at once, level by level. Default: 1,4,16,64.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="With --server: how long a level lasts. Default: 60.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the document here; - prints it.")] = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
    num_draft_tokens: NumDraftTokens = None,
) -> None:
    """Measure drafters against plain decoding, interleaved prompt by prompt; or, with --server, under the load of many clients.

    Example: `outpace bench --prompts questions.jsonl --limit 48 --drafters none,blind,prompt_lookup --json out.json`
    """
    if server is None and (clients, seconds) != (None, None):
        raise BadInputError("--clients and --seconds need --server")
    if server is not None:
        if num_draft_tokens is not None:
            raise BadInputError("--num-draft-tokens does not go with --server; --config holds it too")
        if concurrency != 1:
            raise BadInputError("--concurrency does not go with --server; --clients says how many ask at once")
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed or 0}
        llm_options = {"model": model, "target": target, "precision": precision, "threads": threads}
        levels, duration = levels_of(clients or "1,4,16,64"), seconds or 60.0
        bench_server(server, prompts, limit, drafters, config, sampling, llm_options, levels, duration, repeats, json_out)
        return
    from outpace.bench import report, runner
    from outpace.bench.workloads import read_prompts
    from outpace.core import SamplingParams

    workloads = read_prompts(prompts, limit)
    check_writable(json_out)
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens)
    llm = load(model, "none", target, precision, threads, None)
    settings = with_num_draft_tokens(drafter_settings(drafters, config, llm.target.base), num_draft_tokens)
    document = runner.run(llm, workloads, settings, params, repeats, concurrency)
    show_document(document, report.tables(document), json_out)


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
    llm = load(model, "none", target, precision, threads, None)
    settings = {name: value for name, value in drafter_settings(drafters, config, llm.target.base).items() if name != "none"}
    document = proof.verify(llm, workloads, settings, max_tokens)
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
