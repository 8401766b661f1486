"""The command `outpace bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.bench_server import bench_server, levels_of
from outpace.cli.options import (
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
from outpace.errors import BadInputError, OutpaceError
from outpace.files import check_writable


def bench(
    prompts: Annotated[Path, typer.Option(help="JSON lines with prompt, messages or turns.")],
    model: Model = "default",
    drafters: Annotated[str | None, typer.Option(help="Drafters to measure, comma-separated. Default: all.")] = None,
    max_tokens: MaxTokens = 128,
    limit: Limit = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs per prompt and drafter; the median time is reported.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of prompts that run at once.")] = 1,
    server: Annotated[str | None, typer.Option(metavar="[URL]", help="Measure a server under load; without a URL, start one here.")] = None,
    clients: Annotated[str | None, typer.Option(help="With --server: numbers of concurrent clients. Default: 1,4,16,64.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="With --server: seconds per number of clients. Default: 60.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the results as JSON to this file; - prints them.")] = None,
    target: Target = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    config: Config = None,
    num_draft_tokens: NumDraftTokens = None,
) -> None:
    """Measure drafters against plain decoding, interleaved prompt by prompt, or with --server under the load of many clients.

    Exit code 1 if a drafter fails, or with --server if an answer is an error, lost or mixed up.

    Example: `outpace bench --prompts questions.jsonl --limit 48 --drafters none,blind,prompt_lookup --json out.json`
    """
    if server is None and (clients, seconds) != (None, None):
        raise BadInputError("--clients and --seconds need --server")
    if server is not None:
        if num_draft_tokens is not None:
            raise BadInputError("--num-draft-tokens cannot be used with --server; set it in --config instead")
        if concurrency != 1:
            raise BadInputError("--concurrency cannot be used with --server; use --clients instead")
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed or 0}
        llm_options = {"model": model, "target": target, "precision": precision, "threads": threads}
        levels, duration = levels_of(clients or "1,4,16,64"), seconds or 60.0
        bench_server(server, prompts, limit, drafters, config, sampling, llm_options, levels, duration, repeats, json_out)
        return
    from outpace.bench import report, runner
    from outpace.bench.workloads import read_prompts
    from outpace.params import SamplingParams

    workloads = read_prompts(prompts, limit)
    check_writable(json_out)
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens)
    llm = load(model, "none", target, precision, threads, None)
    settings = with_num_draft_tokens(drafter_settings(drafters, config, llm.target.base), num_draft_tokens)
    document = runner.run(llm, workloads, settings, params, repeats, concurrency)
    show_document(document, report.tables(document), json_out)
    for row in document["results"]:
        if row["category"] == "all" and row["num_failed"]:
            raise OutpaceError(f"drafter {row['drafter']} failed on {row['num_failed']} of {row['num_prompts']} prompts: {row['error']}")
