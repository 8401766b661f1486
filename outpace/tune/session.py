"""One tuning session: search, verdict, tables or JSON, and the settings file."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from outpace.bench.trust import machine_noise
from outpace.bench.workloads import Workload
from outpace.config import SpeculativeConfig
from outpace.errors import BadInputError, OutpaceError
from outpace.files import write_whole
from outpace.llm import LLM
from outpace.machine import LoadMeter
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams
from outpace.progress import countdown, note
from outpace.tune import findings as report
from outpace.tune.candidates import label
from outpace.tune.jobs import jobs
from outpace.tune.search import Outcome, Search
from outpace.tune.verdict import verdict

WARM_UP_TOKENS = 16


def run(
    llm: LLM,
    workloads: Sequence[Workload],
    methods: Sequence[SpeculativeConfig],
    samples: Sequence[SamplingParams],
    time_limit: float,
    as_json: bool = False,
    out: Path | None = None,
    named: Sequence[SpeculativeConfig] = (),
    loading: Mapping[str, Any] | None = None,
) -> None:
    """Tune over all prompts with each of `samples`, print, and write the settings to `out`, with `loading`: the options that loaded the
    model. After Ctrl-C it prints the results so far and writes nothing.

    A candidate whose drafter fails is never chosen: it is noted on stderr, and if it is one of `named`, those that the user asked for,
    OutpaceError is raised at the end.
    """
    outcome = tune(llm, workloads, methods, samples, time_limit)
    advice = verdict(outcome.tried, outcome.noise)
    document = report.document(llm, samples, time_limit, outcome, advice, loading or {})
    for prompt, why in outcome.failed_prompts.items():
        note(f"skipped prompt {prompt}: {why}")
    failed = {config: error for config, error in outcome.drafter_errors.items() if config in named}
    for config, error in outcome.drafter_errors.items():
        if config not in failed:
            note(f"dropped {label(config)}: its drafter failed ({error})")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        for table in report.tables(document, outcome, advice, console.width):
            console.print(table)
        console.print(advice.text, markup=False, soft_wrap=not console.is_terminal)
    if outcome.is_interrupted:
        note("interrupted: these are the results so far; no settings were written")
        raise KeyboardInterrupt
    if out is not None and not advice.is_trusted:
        raise OutpaceError(f"{out} was not written: the measurement is too noisy to trust")
    if out is not None:
        write_whole(out, json.dumps(document["config"], ensure_ascii=False, indent=2))
        note(f"settings written to {out}; use them with --config {out}")
    if failed:
        raise OutpaceError("; ".join(f"the drafter of {label(config)} failed: {error}" for config, error in failed.items()))


def tune(
    llm: LLM, workloads: Sequence[Workload], methods: Sequence[SpeculativeConfig], samples: Sequence[SamplingParams], time_limit: float
) -> Outcome:
    """Search for at most `time_limit` seconds. Raises BadInputError for impossible methods, OutpaceError if nothing could be compared."""
    if not 0 < time_limit < math.inf:
        raise BadInputError(f"the time limit must be a number of seconds, not {time_limit}")
    if not methods:
        raise BadInputError("there is nothing to try besides plain decoding: name drafters with --drafters")
    for method in methods:
        llm.strategy(method)
    meter, found = LoadMeter(), jobs(workloads, samples)
    params_of = {workload.id: params for workload, params in found}

    def ask(workload: Workload, how: SpeculativeConfig) -> RequestOutput:
        with meter.timing():
            return llm.chat(workload.messages, params_of[workload.id], speculative_config=how, return_errors=True)[0]

    with countdown(time_limit) as show:
        _warm_up(llm, workloads, samples[0])
        outcome = Search([workload for workload, _ in found], methods, ask, time_limit, show=show).run()
    outcome = replace(outcome, noise=machine_noise(meter.other_share))
    if any(entry.samples or entry.failure for entry in outcome.tried):
        return outcome
    if outcome.is_interrupted:
        note("nothing was compared yet")
        raise KeyboardInterrupt
    if outcome.failed_prompts:
        prompt, why = next(iter(outcome.failed_prompts.items()))
        raise OutpaceError(f"no prompt could be run; prompt {prompt}: {why}")
    needed = (len(methods) + 1) * outcome.mean_seconds
    raise OutpaceError(
        f"a time limit of {time_limit:g} s is too short to compare anything: a prompt takes about {needed:.0f} s, and at least 3 are needed"
    )


def _warm_up(llm: LLM, workloads: Sequence[Workload], params: SamplingParams) -> None:
    """Run a short answer that is not measured, because the first forward passes of a model are slow."""
    short = replace(params, max_tokens=min(WARM_UP_TOKENS, params.max_tokens))
    for workload in workloads:
        try:
            llm.chat(workload.messages, short, speculative_config=False)
        except BadInputError:  # too long; the search reports it
            continue
        return
