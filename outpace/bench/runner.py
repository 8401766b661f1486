"""Compare drafters: interleaved prompt by prompt, with every answer compared to plain decoding."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import outpace
from outpace.bench.workloads import Workload
from outpace.controller.cost import measure_verify_cost
from outpace.engine.metrics import acceptance_rate, mean_acceptance_length, median, tokens_per_step
from outpace.llm import LLM, SpeculativeLike
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams
from outpace.progress import track

BASELINE = "none"
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """One drafter on one category ("all" is the total). `speedup` is relative to plain decoding in the same run.

    `num_failed` counts the prompts on which the drafter failed, so that the engine continued without it; `error` is the first message.
    """

    drafter: str
    category: str
    num_prompts: int
    num_tokens: int
    decode_seconds: float
    tokens_per_second: float
    tokens_per_step: float
    mean_acceptance_length: float
    acceptance_rate: float
    speedup: float
    num_identical: int
    num_failed: int = 0
    error: str | None = None


@dataclass(frozen=True)
class _Cell:
    """One drafter on one prompt. `decode_seconds` is the median of the repeats; prompts that run at once share the time by their tokens.
    `error`: the first failure of the drafter in any repeat."""

    output: RequestOutput
    decode_seconds: float
    is_identical: bool
    error: str | None = None


def run(
    llm: LLM,
    workloads: Sequence[Workload],
    drafters: Mapping[str, SpeculativeLike],
    params: SamplingParams,
    repeats: int = 1,
    concurrency: int = 1,
) -> dict[str, Any]:
    """Run every drafter (label -> settings) and plain decoding on every prompt, `concurrency` prompts at once.

    Returns one JSON-ready document. Seconds cover decoding only; if several prompts run at once, their prompts are in the prefix cache
    beforehand. Raises BadInputError for an unknown drafter.
    """
    settings = {BASELINE: BASELINE, **drafters}
    for setting in settings.values():
        llm.strategy(setting)  # reports an unknown name before any work
    cost = measure_verify_cost(llm.target)
    llm.chat(workloads[0].messages, params)  # warm up
    cells: dict[str, list[_Cell]] = {name: [] for name in settings}
    groups = [workloads[start : start + concurrency] for start in range(0, len(workloads), concurrency)]
    for index, group in enumerate(track(groups, len(groups), "prompts" if concurrency == 1 else f"groups of {concurrency} prompts")):
        for name, found in _run_group(llm, group, settings, params, repeats, index).items():
            cells[name] += found
    return {
        "model": llm.name,
        "machine": machine(),
        "settings": {**_settings(llm, params, len(workloads), repeats), "concurrency": concurrency},
        "verify_cost": [asdict(entry) for entry in cost],
        "results": [asdict(result) for name in settings for result in _summarise(name, workloads, cells)],
        "peers": [],
    }


def _run_group(
    llm: LLM, group: Sequence[Workload], settings: Mapping[str, SpeculativeLike], params: SamplingParams, repeats: int, index: int
) -> dict[str, list[_Cell]]:
    """Run every drafter on a group of prompts at once, in an order that rotates with group and repeat."""
    messages = [workload.messages for workload in group]
    if len(group) > 1:
        llm.chat(messages, replace(params, max_tokens=1, min_tokens=0), speculative_config=BASELINE)
    runs: dict[str, list[list[tuple[RequestOutput, float]]]] = {name: [] for name in settings}
    for repeat in range(repeats):
        for name in rotated(list(settings), index + repeat):
            started = time.perf_counter()
            outputs = llm.chat(messages, params, speculative_config=settings[name])
            runs[name].append(_timed(outputs, time.perf_counter() - started))
    plain = [output.token_ids for output, _ in runs[BASELINE][0]]
    return {name: [_cell([turn[i] for turn in turns], plain[i]) for i in range(len(group))] for name, turns in runs.items()}


def _timed(outputs: Sequence[RequestOutput], wall_seconds: float) -> list[tuple[RequestOutput, float]]:
    """Each output with its seconds: those of decoding if it ran alone, else its share of the total time by tokens."""
    if len(outputs) == 1:
        return [(outputs[0], outputs[0].stats.decode_seconds)]
    total = sum(len(output.token_ids) for output in outputs)
    return [(output, wall_seconds * len(output.token_ids) / total) for output in outputs]


def _cell(turns: Sequence[tuple[RequestOutput, float]], plain: Sequence[int]) -> _Cell:
    errors = [output.stats.drafter_error for output, _ in turns if output.stats.drafter_error is not None]
    is_identical = all(output.token_ids == plain for output, _ in turns)
    return _Cell(turns[0][0], median([seconds for _, seconds in turns]), is_identical, errors[0] if errors else None)


def rotated(entries: Sequence[T], turn: int) -> list[T]:
    """The entries, starting with another one in each turn, so that drift of the machine affects all of them equally."""
    start = turn % len(entries)
    return [*entries[start:], *entries[:start]]


def _summarise(name: str, workloads: Sequence[Workload], cells: dict[str, list[_Cell]]) -> list[Result]:
    results = []
    for category in ["all", *dict.fromkeys(workload.category for workload in workloads)]:
        chosen = [i for i, workload in enumerate(workloads) if category in ("all", workload.category)]
        mine = [cells[name][i] for i in chosen]
        stats = [cell.output.stats for cell in mine]
        errors = [cell.error for cell in mine if cell.error is not None]
        num_tokens = sum(len(cell.output.token_ids) for cell in mine)
        seconds = sum(cell.decode_seconds for cell in mine)
        plain_tokens = sum(len(cells[BASELINE][i].output.token_ids) for i in chosen)
        plain_seconds = sum(cells[BASELINE][i].decode_seconds for i in chosen)
        results.append(
            Result(
                drafter=name,
                category=category,
                num_prompts=len(mine),
                num_tokens=num_tokens,
                decode_seconds=round(seconds, 4),
                tokens_per_second=round(_rate(num_tokens, seconds), 2),
                tokens_per_step=round(tokens_per_step(num_tokens, sum(s.num_steps for s in stats)), 3),
                mean_acceptance_length=round(
                    mean_acceptance_length(sum(s.num_accepted_tokens for s in stats), sum(s.num_drafts for s in stats)), 3
                ),
                acceptance_rate=round(
                    acceptance_rate(sum(s.num_accepted_tokens for s in stats), sum(s.num_draft_tokens for s in stats)), 4
                ),
                speedup=round(_rate(_rate(num_tokens, seconds), _rate(plain_tokens, plain_seconds)), 3),
                num_identical=sum(cell.is_identical for cell in mine),
                num_failed=len(errors),
                error=errors[0] if errors else None,
            )
        )
    return results


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds else 0.0


def _settings(llm: LLM, params: SamplingParams, num_prompts: int, repeats: int) -> dict[str, Any]:
    names = ("temperature", "top_p", "seed", "max_tokens")
    chosen = {name: getattr(params, name) for name in names}
    return {"outpace": outpace.__version__, "precision": llm.precision, "num_prompts": num_prompts, "repeats": repeats, **chosen}


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures were measured with."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "openvino": version("openvino"),
    }
