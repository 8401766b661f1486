"""The arithmetic of a benchmark: rows of results by category from what each side gave on each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from outpace.bench.intervals import speed_ratio
from outpace.bench.looping import is_looping
from outpace.bench.trust import is_possible
from outpace.bench.workloads import Workload
from outpace.engine.metrics import acceptance_rate, mean_acceptance_length, tokens_per_step
from outpace.request import RequestStats

ALL, LOOPING = "all", "looping"


@dataclass(frozen=True)
class Cell:
    """One side on one prompt; seconds are medians of the repeats. `num_decoded` tokens came in `decode_seconds`.

    Of our own answers all tokens came in that time; of a peer's all but the first, which its prefill gives. `total_seconds` include
    prefill. Prompts that run at once share the time by their tokens. `error`: the first failure of the drafter in any repeat. `spread`: of
    the seconds of the repeats, see `trust.spread`.
    """

    token_ids: Sequence[int]
    text: str
    num_decoded: int
    decode_seconds: float
    total_seconds: float
    is_identical: bool
    stats: RequestStats = field(default_factory=RequestStats)
    error: str | None = None
    spread: float = 0.0


@dataclass(frozen=True)
class Result:
    """One drafter on one category ("all" is the total). `speedup` is relative to plain decoding in the same run.

    `low` and `high` are its 95% interval over prompts. `noise`: why the times cannot be trusted.
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
    total_seconds: float = 0.0
    low: float | None = None
    high: float | None = None
    noise: str | None = None


@dataclass(frozen=True)
class PeerResult:
    """One way of a peer on one category. `speedup` and `num_identical` are relative to the peer's own plain decoding, `relative_speed`
    to ours: the ratio of tokens per second. `error`: why it failed; then the figures are those of the prompts before.
    """

    peer: str
    category: str
    num_prompts: int
    num_tokens: int
    decode_seconds: float
    tokens_per_second: float
    speedup: float
    relative_speed: float
    num_identical: int
    total_seconds: float
    error: str | None = None
    low: float | None = None
    high: float | None = None
    noise: str | None = None


def looping_prompts(cells: Mapping[str, Sequence[Cell]]) -> set[int]:
    """Indices of the prompts on which the answer of at least one side runs in circles."""
    return {index for column in cells.values() for index, cell in enumerate(column) if is_looping(cell.token_ids)}


def groups(workloads: Sequence[Workload], looping: set[int]) -> dict[str, list[int]]:
    """category -> indices of its prompts. Prompts with a looping answer are in the category "looping" alone, and not in "all"."""
    sound = [index for index in range(len(workloads)) if index not in looping]
    categories = {name: [i for i in sound if workloads[i].category == name] for name in dict.fromkeys(w.category for w in workloads)}
    return {ALL: sound, **{name: found for name, found in categories.items() if found}, **({LOOPING: sorted(looping)} if looping else {})}


def summarise(
    name: str, categories: Mapping[str, Sequence[int]], cells: Sequence[Cell], plain: Sequence[Cell], noise: str = "", is_alone: bool = True
) -> list[Result]:
    """One row per category of one drafter. `noise`: of the whole run. `is_alone`: prompts ran one at a time."""
    rows = [_result(name, category, [cells[i] for i in chosen], [plain[i] for i in chosen]) for category, chosen in categories.items()]
    return [replace(row, noise=noise or (_doubt(row) if is_alone else "") or None) for row in rows]


def _doubt(row: Result) -> str:
    possible = is_possible(row.speedup, row.tokens_per_step)
    return "" if possible else f"a speedup of {row.speedup:.2f} with {row.tokens_per_step:.2f} tokens per step is impossible"


def _interval(mine: Sequence[Cell], other: Sequence[Cell]) -> tuple[float | None, float | None]:
    """The 95% interval of the ratio of tokens per second; (None, None) without both sides."""
    pairs = [[(cell.num_decoded, cell.decode_seconds) for cell in column] for column in (mine, other)]
    found = speed_ratio(*pairs) if len(mine) == len(other) else None
    if found is None or found.low is None or found.high is None:
        return None, None
    return round(found.low, 3), round(found.high, 3)


def _result(name: str, category: str, mine: Sequence[Cell], plain: Sequence[Cell]) -> Result:
    stats = [cell.stats for cell in mine]
    errors = [cell.error for cell in mine if cell.error is not None]
    low, high = _interval(mine, plain)
    num_tokens, num_accepted = sum(len(cell.token_ids) for cell in mine), sum(s.num_accepted_tokens for s in stats)
    return Result(
        drafter=name,
        category=category,
        num_prompts=len(mine),
        num_tokens=num_tokens,
        decode_seconds=round(sum(cell.decode_seconds for cell in mine), 4),
        tokens_per_second=round(speed(mine), 2),
        tokens_per_step=round(tokens_per_step(num_tokens, sum(s.num_steps for s in stats)), 3),
        mean_acceptance_length=round(mean_acceptance_length(num_accepted, sum(s.num_drafts for s in stats)), 3),
        acceptance_rate=round(acceptance_rate(num_accepted, sum(s.num_draft_tokens for s in stats)), 4),
        speedup=round(_ratio(speed(mine), speed(plain)), 3),
        num_identical=sum(cell.is_identical for cell in mine),
        num_failed=len(errors),
        error=errors[0] if errors else None,
        total_seconds=round(sum(cell.total_seconds for cell in mine), 4),
        low=low,
        high=high,
    )


def summarise_peer(
    name: str,
    categories: Mapping[str, Sequence[int]],
    cells: Sequence[Cell],
    own_plain: Sequence[Cell],
    plain: Sequence[Cell],
    error: str | None,
    noise: str = "",
) -> list[PeerResult]:
    """One row per category of one peer: `own_plain` are its cells without drafts, `plain` ours. Prompts that it did not reach are
    left out on all sides."""
    num_reached = min(len(cells), len(own_plain)) if own_plain else len(cells)
    rows = []
    for category, chosen in categories.items():
        reached = [index for index in chosen if index < num_reached]
        mine, own, ours = ([column[index] for index in reached if column] for column in (cells, own_plain, plain))
        rows.append(replace(_peer_result(name, category, mine, own, ours, error), noise=noise or None))
    return rows


def _peer_result(
    name: str, category: str, mine: Sequence[Cell], own_plain: Sequence[Cell], plain: Sequence[Cell], error: str | None
) -> PeerResult:
    low, high = _interval(mine, own_plain)
    return PeerResult(
        peer=name,
        category=category,
        num_prompts=len(mine),
        num_tokens=sum(cell.num_decoded for cell in mine),
        decode_seconds=round(sum(cell.decode_seconds for cell in mine), 4),
        tokens_per_second=round(speed(mine), 2),
        speedup=round(_ratio(speed(mine), speed(own_plain)), 3),
        relative_speed=round(_ratio(speed(mine), speed(plain)), 3),
        num_identical=sum(cell.is_identical for cell in mine),
        total_seconds=round(sum(cell.total_seconds for cell in mine), 4),
        error=error,
        low=low,
        high=high,
    )


def answers(workloads: Sequence[Workload], side: str, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row per prompt of one side. The text is left out where it equals that of plain decoding, except for plain decoding itself."""
    return [
        {
            "side": side,
            "prompt": workload.id,
            "category": workload.category,
            "num_tokens": len(cell.token_ids),
            "num_decoded": cell.num_decoded,
            "decode_seconds": round(cell.decode_seconds, 5),
            "total_seconds": round(cell.total_seconds, 5),
            "num_steps": cell.stats.num_steps,
            "is_identical": cell.is_identical,
            "is_looping": is_looping(cell.token_ids),
            **({} if cell.is_identical and not is_plain(side) else {"text": cell.text}),
        }
        for workload, cell in zip(workloads, cells, strict=False)
    ]


def is_plain(side: str) -> bool:
    """Whether a side decodes without drafts: `none`, or `peer:plain`."""
    return side == "none" or side.endswith(":plain")


def speed(cells: Sequence[Cell]) -> float:
    """Tokens per second of decoding; 0 without time."""
    return _ratio(sum(cell.num_decoded for cell in cells), sum(cell.decode_seconds for cell in cells))


def _ratio(amount: float, other: float) -> float:
    return amount / other if other else 0.0
