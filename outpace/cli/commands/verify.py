"""The command `outpace verify`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.bench_server import levels_of
from outpace.cli.options.loading import Config, Loading, drafter_settings
from outpace.cli.options.option_types import AsJson, Prompts
from outpace.cli.options.spread import spread
from outpace.progress import note, slow

if TYPE_CHECKING:
    from outpace.bench.workloads import Workload
    from outpace.llm import LLM
    from outpace.testing.proof import Trials

NUM_TIES = 10  # near ties that are printed


@spread(Loading)
def verify(
    loading: Loading,
    drafters: Annotated[str | None, typer.Option(help="Drafters to verify, comma-separated. Default: all.")] = None,
    prompts: Prompts = "builtin",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of prompts. Default: 6, fewer for a slow model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens of an answer. Default: 64, fewer for a slow model.")] = None,
    temperature: Annotated[str, typer.Option(help="Sampling temperatures, comma-separated.")] = "0,0.8",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per temperature above 0.")] = 1,
    concurrency: Annotated[str, typer.Option(help="Numbers of prompts that run at once, comma-separated.")] = "1,4",
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Check on this model that speculation changes no token. Exit code 1 if any check fails.

    Runs as much as a model of this speed does in about 5 minutes, unless --limit and --max-tokens say how much.

    Example: `outpace verify --prompts questions.jsonl --limit 12 --temperature 0,0.5,1 --seeds 3`
    """
    from outpace.bench.builtin import load_prompts
    from outpace.bench.temperatures import parse_temperatures
    from outpace.bench.workloads import spread as spread_evenly
    from outpace.cli.show import prose
    from outpace.config import SpeculativeConfig
    from outpace.drafters.spec import check_specs
    from outpace.testing import proof

    trials = proof.Trials(parse_temperatures(temperature), seeds, levels_of(concurrency, "--concurrency"))
    workloads = load_prompts(prompts)
    llm = loading.llm("none")
    settings = {name: value for name, value in drafter_settings(drafters, config, llm.target.base).items() if name != "none"}
    for setting in settings.values():
        check_specs(SpeculativeConfig.of(setting).method)
    num_prompts, num_tokens = _size(llm, workloads, trials, len(settings), limit, max_tokens)
    document = proof.verify(llm, spread_evenly(workloads, num_prompts), settings, replace(trials, max_tokens=num_tokens))
    if as_json:
        typer.echo(json.dumps(document))
    else:
        console = prose()
        for check in document["checks"]:
            mark = "[green]ok  [/]" if check["passed"] else "[bold red]FAIL[/]"
            console.print(f"{mark} {check['name']}: {check['detail']}")
        for tie in document["near_ties"][:NUM_TIES]:
            console.print(_near_tie(tie), markup=False)
        console.print(f"false alarms: {document['false_alarms']}", markup=False)
        console.print(f"{'passed' if document['passed'] else 'FAILED'}: {document['claim']}", markup=False)
    if not document["passed"]:
        raise typer.Exit(1)


def _size(
    llm: LLM, workloads: Sequence[Workload], trials: Trials, num_drafters: int, limit: int | None, max_tokens: int | None
) -> tuple[int, int]:
    """Prompts, and tokens of an answer, to run; a note says how long a run of more than a minute takes."""
    from outpace.testing.effort import num_answers, num_references, pace_of, size_of_run

    def count(num_prompts: int) -> int:
        return num_answers(len(trials.points), trials.at_once, min(num_prompts, len(workloads)), num_drafters)

    with slow("timing a short answer"):
        pace = pace_of(llm, workloads[0])
    num_prompts, num_tokens = size_of_run(lambda prompts, tokens: pace.seconds(count(prompts), tokens), limit, max_tokens)
    minutes = pace.seconds(count(num_prompts), num_tokens) / 60
    if minutes > 1:
        time = "a minute" if minutes < 1.5 else f"{minutes:.0f} minutes"
        references = num_references(len(trials.points), min(num_prompts, len(workloads)))
        checked = count(num_prompts) - references
        note(f"{checked} answers of at most {num_tokens} tokens, and {references} to compare with, take about {time}")
    return num_prompts, num_tokens


def _near_tie(tie: dict[str, Any]) -> str:
    where = f"temperature {tie['temperature']:g}, seed {tie['seed']}, {tie['at_once']} at once"
    return f"near tie: {tie['drafter']}, prompt {tie['prompt']}, token {tie['token']}, a change of two logits by {tie['gap']:.1g} ({where})"
