"""The commands `outpace tune` and `outpace calibrate`, which measure this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from outpace.cli.options.loading import Loading
from outpace.cli.options.option_types import AsJson, Limit, MaxTokens, Prompts, Seed
from outpace.cli.options.rules import excludes, needs, with_rules
from outpace.cli.options.spread import spread
from outpace.files import check_writable, read_json

OWN_SETTINGS = "--drafters, --config and --out are about outpace's own settings and do not go with --for"


@with_rules(
    excludes("engine", "drafters", "config", "out", message=OWN_SETTINGS),
    needs("engine", "draft_model", "token_cost", message="{other} is for --for, which was not given"),
)
@spread(Loading)
def tune(
    prompts: Prompts = "builtin",
    *,
    loading: Loading,
    out: Annotated[Path | None, typer.Option(help="Write the best settings here, for --config.")] = None,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Time limit in seconds, excluding the loading of the model.")] = 300.0,
    drafters: Annotated[str | None, typer.Option(help="Drafters to try, comma-separated. Default: those that usually do well.")] = None,
    limit: Limit = None,
    max_tokens: MaxTokens = 128,
    temperature: Annotated[str, typer.Option(help="Sampling temperatures; with several, as in 0,0.8, every prompt runs at each.")] = "0",
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per temperature above 0, from --seed on.")] = 1,
    as_json: AsJson = False,
    config: Annotated[Path | None, typer.Option(help="JSON file with speculative settings to try as a further candidate.")] = None,
    engine: Annotated[str | None, typer.Option("--for", help="Advise for another engine instead: vllm. Prints its command.")] = None,
    draft_model: Annotated[str | None, typer.Option(help="With --for: also try this draft model.")] = None,
    token_cost: Annotated[float, typer.Option(min=0.0, help="With --for: what a draft token adds to a forward pass there.")] = 0.02,
) -> None:
    """Find the fastest drafter for your prompts on this machine, with a confidence interval. Exit code 1 if a named drafter fails.

    Give prompts like those of your production: what repeats in a text decides which drafter is fastest.

    Tune at the temperature that you use: drafts are accepted less often when sampling.

    Example: `outpace tune --prompts questions.jsonl --time-limit 120 --out tuned.json`, then `outpace chat --config tuned.json`

    For vLLM: `outpace tune --for vllm --model org/name --prompts questions.jsonl` prints the whole `vllm serve` line.
    """
    from outpace.bench.builtin import load_prompts
    from outpace.bench.temperatures import parse_temperatures, points
    from outpace.params import SamplingParams
    from outpace.tune import session
    from outpace.tune.candidates import default_methods, named_methods
    from outpace.tune.for_vllm import advise_for_vllm, check_engine

    if engine is not None:
        check_engine(engine)
    workloads = load_prompts(prompts, limit)
    check_writable(out)
    named = named_methods(drafters, None if config is None else read_json(config))
    samples = [
        SamplingParams(temperature=t, seed=one, max_tokens=max_tokens) for t, one in points(parse_temperatures(temperature), seed, seeds)
    ]
    llm = loading.llm("none")
    if engine is not None:
        advise_for_vllm(llm, loading.model, workloads, samples, time_limit, draft_model, token_cost, as_json)
        return
    methods = named if drafters is not None else [*default_methods(llm), *named]
    session.run(llm, workloads, methods, samples, time_limit, as_json, out, named, _written(loading))


def _written(loading: Loading) -> dict[str, Any]:
    """What was asked for when the model was loaded, for the settings file. A path is written from the root on, and `default` as the model
    that it stands for today."""
    from outpace.models.catalog import DEFAULT_MODEL, default_name, lookup

    name = default_name() if loading.model == DEFAULT_MODEL else loading.model
    name = str(Path(name).expanduser().absolute()) if lookup(name) is None and Path(name).expanduser().exists() else name
    return {option: value for option, value in asdict(replace(loading, model=name)).items() if value not in (None, "auto")}


@spread(Loading)
def calibrate(loading: Loading, as_json: AsJson = False) -> None:
    """Measure anew what a forward pass costs on this machine: the table that `auto` works with. Run it while the machine is idle.

    Example: `outpace calibrate`
    """
    from rich.console import Console

    from outpace.cli.explain import cost_table

    llm = loading.llm("none")
    costs = llm.strategies.calibrate()
    if as_json:
        typer.echo(json.dumps(asdict(costs)))
    else:
        Console(highlight=False).print(cost_table(costs))
