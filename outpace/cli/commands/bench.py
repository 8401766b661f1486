"""The command `outpace bench`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.bench_server import SERVER_RULES, bench_server
from outpace.cli.options.loading import Config, Loading, drafter_settings, with_num_draft_tokens
from outpace.cli.options.option_types import Limit, MaxTokens, NumDraftTokens, Prompts, Seed
from outpace.cli.options.rules import excludes, with_rules
from outpace.cli.options.spread import spread
from outpace.cli.options.tracing import TRACE_RULE, Tracing
from outpace.cli.show import show_document, table_width
from outpace.errors import OutpaceError

if TYPE_CHECKING:
    from outpace.bench.peers.side import PeerSide

Peers = Annotated[
    str | None, typer.Option(help="Other engines to run in the same turns, such as llama.cpp,genai, or PEER:WAY (docs/measuring/peers.md).")
]


def _is_sampled(temperature: Any) -> bool:
    from outpace.bench.temperatures import parse_temperatures

    return max(parse_temperatures(temperature)) > 0


GREEDY = "--peers compares greedy answers, one prompt at a time: leave --temperature and --concurrency as they are"
PEER_RULES = (excludes("peers", "concurrency", message=GREEDY), excludes("peers", "temperature", message=GREEDY, of_others=_is_sampled))


@with_rules(TRACE_RULE, *SERVER_RULES, *PEER_RULES)
@spread(Tracing)
@spread(Loading)
def bench(
    prompts: Prompts = "builtin",
    *,
    loading: Loading,
    drafters: Annotated[str | None, typer.Option(help="Drafters to measure, comma-separated. Default: all.")] = None,
    max_tokens: MaxTokens = 128,
    limit: Limit = None,
    temperature: Annotated[str, typer.Option(help="Sampling temperatures; several, as in 0,0.8, are shown side by side.")] = "0",
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per temperature above 0, from --seed on.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Runs per prompt and drafter; the median time is reported.")] = 1,
    peers: Peers = None,
    by_category: Annotated[bool, typer.Option("--by-category", help="Show one row per category of the prompts.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of prompts that run at once.")] = 1,
    server: Annotated[str | None, typer.Option(metavar="[URL]", help="Measure a server under load; without a URL, start one here.")] = None,
    clients: Annotated[str | None, typer.Option(help="With --server: numbers of concurrent clients. Default: 1,4,16,64.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="With --server: seconds per number of clients. Default: 60.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the results as JSON to this file; - prints them.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write the results as a page for the browser to this file.")] = None,
    tracing: Tracing,
    config: Config = None,
    num_draft_tokens: NumDraftTokens = None,
) -> None:
    """Measure drafters against plain decoding, interleaved prompt by prompt, or with --server under the load of many clients.

    Exit code 1 if a drafter fails, or with --server if an answer is an error, lost or mixed up.

    Example: `outpace bench --prompts questions.jsonl --limit 48 --drafters none,blind,prompt_lookup --json out.json`
    """
    from outpace.bench.temperatures import parse_temperatures, points

    temperatures = parse_temperatures(temperature)
    tracing.check(json_out, report)
    if server is not None:
        sampling = {"max_tokens": max_tokens, "temperature": temperatures[0], "seed": seed or 0}
        bench_server(server, prompts, limit, drafters, config, sampling, loading, (clients, seconds), repeats, (json_out, report))
        return
    from outpace.bench import runner
    from outpace.bench.builtin import load_prompts
    from outpace.params import SamplingParams

    sides = _sides(peers)
    workloads = load_prompts(prompts, limit)
    samples = [SamplingParams(temperature=t, seed=one, max_tokens=max_tokens) for t, one in points(temperatures, seed, seeds)]
    engine = {"enable_prefix_caching": not sides}  # peers run every prompt anew
    llm = loading.llm("none", engine)
    settings = with_num_draft_tokens(drafter_settings(drafters, config, llm.target.base), num_draft_tokens)
    with _started(sides, loading.model, llm.precision, loading.threads, llm.tokenizer.encode_chat(workloads[0].messages)), tracing.of(llm):
        documents = [runner.run(llm, workloads, settings, params, repeats, concurrency, sides, loading.threads) for params in samples]
    _show(documents, {"prompts": prompts, "limit": limit}, (json_out, report), by_category)


def _show(
    documents: Sequence[dict[str, Any]], settings: dict[str, Any], outputs: tuple[Path | None, Path | None], by_category: bool
) -> None:
    """Show the results of one point, or of several side by side. Raises OutpaceError if a drafter failed."""
    from outpace.bench.tables import tables
    from outpace.bench.temperatures import merged, table

    document = documents[0] if len(documents) == 1 else merged(documents)
    document["settings"] |= settings
    shown = tables(document, table_width(), by_category) if len(documents) == 1 else [table(document)]
    show_document(document, shown, *outputs)
    for row in document["results"]:
        if row["num_failed"]:
            raise OutpaceError(f"drafter {row['drafter']} failed on {row['num_failed']} of {row['num_prompts']} prompts: {row['error']}")


def _sides(peers: str | None) -> list[PeerSide]:
    """The peers of --peers, not started yet."""
    from outpace.bench.peers.side import PeerSide, parse_peers

    return [PeerSide(spec) for spec in parse_peers(peers)] if peers is not None else []


@contextmanager
def _started(sides: Sequence[PeerSide], model: str, precision: str, threads: int | None, prompt: list[int]) -> Iterator[None]:
    """Start the peers, and end their processes in any case. Those that cannot start are noted."""
    from outpace.bench.peers.side import close_all, start_all

    try:
        start_all(sides, model, precision, threads, prompt)
        yield
    finally:
        close_all(sides)
