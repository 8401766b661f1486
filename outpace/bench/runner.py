"""Compare drafters: interleaved prompt by prompt, with every answer compared to plain decoding; and peers in the same turns."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

import outpace
from outpace.bench.bandwidth import pass_floor
from outpace.bench.gauges import Gauges
from outpace.bench.peers.side import PeerSide
from outpace.bench.summary import Cell, PeerResult, answers, groups, looping_prompts, summarise, summarise_peer
from outpace.bench.trust import machine_noise, spread
from outpace.bench.workloads import Workload
from outpace.config import SpeculativeConfig
from outpace.controller.cost import measure_verify_cost
from outpace.controller.strategy import Strategy
from outpace.drafters.spec import parse_specs
from outpace.engine.metrics import median
from outpace.llm import LLM, SpeculativeLike
from outpace.machine import num_cores, processor
from outpace.outputs import RequestOutput
from outpace.params import SamplingParams
from outpace.progress import slow, track

BASELINE = "none"
T = TypeVar("T")


@dataclass(frozen=True)
class _Timed:
    """An output, its seconds of decoding and its seconds in all."""

    output: RequestOutput
    decode_seconds: float
    total_seconds: float


def run(
    llm: LLM,
    workloads: Sequence[Workload],
    drafters: Mapping[str, SpeculativeLike],
    params: SamplingParams,
    repeats: int = 1,
    concurrency: int = 1,
    peers: Sequence[PeerSide] = (),
    threads: int | None = None,
) -> dict[str, Any]:
    """Run every drafter (label -> settings), plain decoding and every started peer on every prompt, `concurrency` prompts at once.

    Returns one JSON-ready document. Seconds of decoding exclude prefill; if several prompts run at once, their prompts are in the prefix
    cache beforehand. `threads`: those that the target uses, for the speed of memory. Raises BadInputError for an unknown drafter.
    """
    settings = {BASELINE: BASELINE, **drafters}
    for setting in settings.values():
        llm.strategy(setting)  # reports an unknown name before any work
    with slow("measuring what a forward pass costs"):
        cost, floor = measure_verify_cost(llm.target), pass_floor(llm.target, threads)
        llm.chat(workloads[0].messages, params)  # warm up
    cells: dict[str, list[Cell]] = {name: [] for name in settings}
    gauges = Gauges(llm.engine)
    batches = [workloads[start : start + concurrency] for start in range(0, len(workloads), concurrency)]
    for index, group in enumerate(track(batches, len(batches), "prompts" if concurrency == 1 else f"groups of {concurrency} prompts")):
        for name, found in _run_group(llm, group, settings, params, repeats, index, peers, gauges).items():
            cells[name] += found
    theirs = {side.name: _peer_cells(llm, side, peers) for side in peers}
    categories = groups(workloads, looping_prompts({**cells, **theirs}))
    repeat_spread = median([cell.spread for column in cells.values() for cell in column])
    noise = machine_noise(gauges.load.other_share, repeat_spread)
    return {
        "model": llm.name,
        "machine": machine(),
        "settings": {**_settings(llm, params, len(workloads), repeats), "concurrency": concurrency},
        "verify_cost": [asdict(entry) for entry in cost],
        "pass_floor": None if floor is None else asdict(floor),
        "results": [
            asdict(row) for name in settings for row in summarise(name, categories, cells[name], cells[BASELINE], noise, concurrency == 1)
        ],
        "steps": gauges.documents(),
        "peers": [asdict(row) for side in peers for row in _peer_rows(side, categories, theirs, cells[BASELINE], noise)],
        "about_peers": {side.name: side.about for side in peers},
        "noise": {"other_cpu_share": gauges.load.other_share, "repeat_spread": repeat_spread, "verdict": noise or None},
        "answers": [row for name, column in {**cells, **theirs}.items() for row in answers(workloads, name, column)],
    }


def _run_group(
    llm: LLM,
    group: Sequence[Workload],
    settings: Mapping[str, SpeculativeLike],
    params: SamplingParams,
    repeats: int,
    index: int,
    peers: Sequence[PeerSide] = (),
    gauges: Gauges | None = None,
) -> dict[str, list[Cell]]:
    """Run every side on a group of prompts at once, in an order that rotates with group and repeat. Peers keep their own answers."""
    messages = [workload.messages for workload in group]
    if len(group) > 1:
        llm.chat(messages, replace(params, max_tokens=1, min_tokens=0), speculative_config=BASELINE)
    runs: dict[str, list[list[_Timed]]] = {name: [] for name in settings}
    sides = {side.name: side for side in peers}
    for repeat in range(repeats):
        for name in rotated([*settings, *sides], index + repeat):
            if name in sides:
                sides[name].answer(llm.tokenizer.encode_chat(group[0].messages), params.max_tokens, repeat)
                continue
            with gauges.timing(name) if gauges is not None else nullcontext():
                started = time.perf_counter()
                outputs = llm.chat(messages, params, speculative_config=settings[name], prediction=_prediction(settings[name], group))
                runs[name].append(_timed(outputs, time.perf_counter() - started))
    plain = [timed.output.token_ids for timed in runs[BASELINE][0]]
    return {name: [_cell([turn[i] for turn in turns], plain[i]) for i in range(len(group))] for name, turns in runs.items()}


def _prediction(setting: SpeculativeLike, group: Sequence[Workload]) -> str | None:
    """The expected answer, for settings whose drafters include `prediction` and a prompt that runs alone and has one."""
    if len(group) > 1 or group[0].prediction is None or isinstance(setting, Strategy):
        return None
    names = {spec.name for spec in parse_specs(SpeculativeConfig.of(setting).method)}
    return group[0].prediction if "prediction" in names else None


def _timed(outputs: Sequence[RequestOutput], wall_seconds: float) -> list[_Timed]:
    """Each output with its own seconds if it ran alone, else with its share of the total time by tokens."""
    if len(outputs) == 1:
        return [_Timed(outputs[0], outputs[0].stats.decode_seconds, wall_seconds)]
    total = sum(len(output.token_ids) for output in outputs)
    shares = [wall_seconds * len(output.token_ids) / total for output in outputs]
    return [_Timed(output, share, share) for output, share in zip(outputs, shares, strict=True)]


def _cell(turns: Sequence[_Timed], plain: Sequence[int]) -> Cell:
    outputs = [turn.output for turn in turns]
    errors = [output.stats.drafter_error for output in outputs if output.stats.drafter_error is not None]
    return Cell(
        token_ids=outputs[0].token_ids,
        text=outputs[0].text,
        num_decoded=len(outputs[0].token_ids),
        decode_seconds=median([turn.decode_seconds for turn in turns]),
        total_seconds=median([turn.total_seconds for turn in turns]),
        is_identical=all(output.token_ids == plain for output in outputs),
        stats=outputs[0].stats,
        error=errors[0] if errors else None,
        spread=spread([turn.decode_seconds for turn in turns]),
    )


def _peer_cells(llm: LLM, side: PeerSide, peers: Sequence[PeerSide]) -> list[Cell]:
    """The answers of a peer, compared with those of its own plain decoding by text (a peer need not tell its tokens)."""
    plain = next(other for other in peers if other.spec.peer == side.spec.peer and other.spec.way == "plain")
    texts = [_text(llm, turns[0]) for turns in plain.answers]
    cells = []
    for index, turns in enumerate(side.answers):
        found = [_text(llm, turn) for turn in turns]
        cells.append(
            Cell(
                token_ids=turns[0].get("token_ids") or llm.tokenizer.encode(found[0], False),
                text=found[0],
                num_decoded=turns[0]["num_decoded"],
                decode_seconds=median([turn["decode_seconds"] for turn in turns]),
                total_seconds=median([turn["total_seconds"] for turn in turns]),
                is_identical=index < len(texts) and all(text == texts[index] for text in found),
            )
        )
    return cells


def _text(llm: LLM, answer: Mapping[str, Any]) -> str:
    return str(answer["text"]) if "text" in answer else llm.tokenizer.decode(answer["token_ids"])


def _peer_rows(
    side: PeerSide, categories: Mapping[str, Sequence[int]], theirs: Mapping[str, list[Cell]], plain: Sequence[Cell], noise: str
) -> list[PeerResult]:
    own_plain = theirs.get(f"{side.spec.peer}:plain", [])
    return summarise_peer(side.name, categories, theirs[side.name], own_plain, plain, side.error, noise)


def rotated(entries: Sequence[T], turn: int) -> list[T]:
    """The entries, starting with another one in each turn, so that drift of the machine affects all of them equally."""
    start = turn % len(entries)
    return [*entries[start:], *entries[:start]]


def _settings(llm: LLM, params: SamplingParams, num_prompts: int, repeats: int) -> dict[str, Any]:
    names = ("temperature", "top_p", "seed", "max_tokens")
    chosen = {name: getattr(params, name) for name in names}
    return {"outpace": outpace.__version__, "precision": llm.precision, "num_prompts": num_prompts, "repeats": repeats, **chosen}


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures were measured with."""
    return {
        "cpu": processor(),
        "cores": num_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "openvino": version("openvino"),
    }
