"""The command `outpace plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.options.loading import DRAFTER_RULE, Config, Loading, chosen_drafter
from outpace.cli.options.option_types import Limit, MaxTokens, Prompts
from outpace.cli.options.rules import with_rules
from outpace.cli.options.spread import spread
from outpace.cli.show import show_document
from outpace.errors import BadInputError
from outpace.files import check_writable, read_json

if TYPE_CHECKING:
    from outpace.plan.profile import Profile

PlannedDrafter = Annotated[str | None, typer.Option(help="Drafter to plan with; `outpace drafters` lists them. Default: auto.")]
Clients = Annotated[str, typer.Option(help="Numbers of clients that send requests at once.")]
Replicas = Annotated[str, typer.Option(help="Numbers of machines like this one.")]
Price = Annotated[
    float | None, typer.Option(min=0, help="What one machine costs per hour; the plan then shows what a million tokens cost.")
]
MaxNumSeqs = Annotated[int, typer.Option(min=1, help="Requests that a server runs at once, as in `outpace serve`.")]
PromptTokens = Annotated[float | None, typer.Option(min=1, help="Tokens of a prompt. Default: the mean of --prompts.")]
AnswerTokens = Annotated[float | None, typer.Option(min=1, help="Tokens of an answer. Default: the mean of those measured.")]
CachedShare = Annotated[float, typer.Option(min=0, max=1, help="Share of the prompts' tokens that are in the prefix cache.")]
Measured = Annotated[Path | None, typer.Option(help="Plan from an earlier --json file, without running the model.")]
Check = Annotated[Path | None, typer.Option(help="Load test (`outpace bench --server --json FILE`) to show the plan beside.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the plan and what was measured as JSON to this file; - prints it.")]


@with_rules(DRAFTER_RULE)
@spread(Loading)
def plan(
    loading: Loading,
    drafter: PlannedDrafter = None,
    prompts: Prompts = "builtin",
    limit: Limit = 12,
    max_tokens: MaxTokens = 128,
    clients: Clients = "1,2,4,8,16,32,64",
    replicas: Replicas = "1",
    price: Price = None,
    max_num_seqs: MaxNumSeqs = 16,
    prompt_tokens: PromptTokens = None,
    answer_tokens: AnswerTokens = None,
    cached_share: CachedShare = 0.0,
    measured: Measured = None,
    check: Check = None,
    json_out: JsonOut = None,
    config: Config = None,
) -> None:
    """Plan a server: tokens per second and cost against the number of clients, plain and speculative, on one machine or several.

    Runs a few prompts, in one to three minutes; run it while the machine is idle. Example: `outpace plan --price 0.40 --replicas 1,4`
    """
    from outpace.cli.bench_server import levels_of
    from outpace.plan.load_check import compare, rows_of
    from outpace.plan.plan_table import check_table, document_of, plan_table, verdict
    from outpace.plan.profile import Profile
    from outpace.plan.throughput import Load, pays_up_to
    from outpace.plan.throughput import plan as points_of

    levels, machines = levels_of(clients), levels_of(replicas, "--replicas")
    check_writable(json_out)
    load_test = None if check is None else read_json(check)
    if load_test is not None:
        rows_of(load_test)  # a wrong file is told before the model runs
    size = Load(prompt_tokens, answer_tokens, cached_share, max_num_seqs)
    if measured is not None:
        profile = Profile.load(measured)
    else:
        profile = _measure(loading, prompts, limit, max_tokens, chosen_drafter(drafter, config, "auto"))
    points, pays = points_of(profile, size, levels, machines, price), pays_up_to(profile, size)
    checks = compare(profile, size, load_test) if load_test is not None else []
    tables = [plan_table(profile, points), verdict(pays, size), *([check_table(checks)] if checks else [])]
    show_document(document_of(profile, size, points, pays, checks), tables, json_out)


def _measure(loading: Loading, prompts: str, limit: int | None, max_tokens: int, drafter: Any) -> Profile:
    from outpace.bench.builtin import load_prompts
    from outpace.params import SamplingParams
    from outpace.plan.profile import measure
    from outpace.progress import stages

    workloads = load_prompts(prompts, limit)
    if not workloads:
        raise BadInputError("there is no prompt")
    with loading.llm("none") as llm, stages("measuring") as tell:
        return measure(llm, [workload.messages for workload in workloads], SamplingParams(max_tokens=max_tokens), drafter, tell)
