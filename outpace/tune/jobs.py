"""The prompts of tuning, each at every temperature and with every seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from outpace.bench.workloads import Workload
from outpace.params import SamplingParams


def jobs(workloads: Sequence[Workload], samples: Sequence[SamplingParams]) -> list[tuple[Workload, SamplingParams]]:
    """All prompts with the first of `samples`, then with the next. Ids tell them apart; of several temperatures each has categories of
    its own, so that the verdict speaks of each."""
    if len(samples) == 1:
        return [(workload, samples[0]) for workload in workloads]
    has_several = len({params.temperature for params in samples}) > 1
    return [(_named(workload, params, has_several), params) for params in samples for workload in workloads]


def _named(workload: Workload, params: SamplingParams, has_several: bool) -> Workload:
    at = f" at {params.temperature:g}" if has_several else ""
    seed = f", seed {params.seed}" if params.temperature else ""
    return replace(workload, id=f"{workload.id}{at}{seed}", category=f"{workload.category}{at}")


def common(samples: Sequence[SamplingParams], name: str) -> object:
    """The value of a field that all of them share, or the list of their values."""
    values = list(dict.fromkeys(getattr(params, name) for params in samples))
    return values[0] if len(values) == 1 else values
