"""When not to use a drafter: what the figures of a run say against it, and what they cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from outpace.bench.summary import ALL, LOOPING, is_plain
from outpace.bench.trust import interval_text

if TYPE_CHECKING:
    from outpace.bench.page.results_view import Row

STEEP = 1.5  # times the cost of the smallest pass from which a larger one is called expensive
SIMPLE = 8  # tokens of the pass that is looked at


def advice(document: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Sentences, the weightiest first."""
    ours = [row for row in rows if not is_plain(row.drafter) and row.num_prompts]
    return [
        *_noise(ours),
        *_failed(ours),
        *_slower(ours),
        *_uncertain_kinds(ours),
        *_faster_peers(document, rows),
        *_steep_passes(document),
        *_limits(document, ours),
    ]


def _noise(rows: Sequence[Row]) -> Iterator[str]:
    for reason in dict.fromkeys(row.doubt for row in rows if row.doubt and row.category == ALL):
        yield f"Do not decide by these times: {reason}. Measure again on a quiet machine."


def _failed(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.category == ALL and row.error:
            yield f"{row.label} failed and went on without drafts: {row.error}."
        if row.category == ALL and row.num_identical < row.num_prompts:
            num = row.num_prompts - row.num_identical
            yield f"{row.label} gave {num} of {row.num_prompts} answers with other tokens than plain decoding: `outpace verify` says why."


def _slower(rows: Sequence[Row]) -> Iterator[str]:
    whole = [row for row in rows if row.category == ALL and not row.doubt and not row.error]
    for row in whole:
        if row.is_loss:
            yield f"{row.label} is slower than plain decoding here ({row.speedup:.2f}, {interval_text(row.low, row.high)})."
    unsure = [row.label for row in whole if row.has_interval and not row.is_loss and not row.is_certain_gain]
    if unsure:
        yield f"No gain is certain, with these prompts, for: {', '.join(unsure)}."
    if not all(row.has_interval for row in whole):
        yield "Not every speedup has an interval here: small differences say nothing."


def _uncertain_kinds(rows: Sequence[Row]) -> Iterator[str]:
    """Kinds of prompts on which the best drafter need not gain."""
    whole = [row for row in rows if row.category == ALL and row.is_certain_gain]
    if not whole:
        return
    best = max(whole, key=lambda row: row.speedup)
    kinds = [row for row in rows if row.label == best.label and row.category not in (ALL, LOOPING) and not row.is_certain_gain]
    if kinds:
        words = ", ".join(f"{row.category} ({row.speedup:.2f})" for row in kinds)
        yield f"Even with {best.label}, the best in all, no gain is certain on: {words}."


def _faster_peers(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    speeds = [row.tokens_per_second for row in rows if row.category == ALL and not row.error]
    best = max(speeds, default=0.0)
    for peer in document.get("peers", []):
        if peer["category"] == ALL and not peer["error"] and peer["tokens_per_second"] > best:
            yield f"{peer['peer']} was faster than any drafter here: {peer['tokens_per_second']:.1f} against {best:.1f} tokens/s."


def _steep_passes(document: Mapping[str, Any]) -> Iterator[str]:
    costs = {entry["num_tokens"]: entry["milliseconds"] for entry in document["verify_cost"]}
    if not costs or SIMPLE not in costs:
        return
    least = min(costs)
    ratio = costs[SIMPLE] / costs[least] if costs[least] else 0.0
    if ratio >= STEEP:
        yield (
            f"A pass of {SIMPLE} tokens costs {ratio:.2f} times one of {least} here: {SIMPLE - 1} draft tokens pay only where at "
            f"least {ratio - 1:.1f} of them are accepted. `auto` drafts by this cost."
        )


def _limits(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    settings = document["settings"]
    temperatures = settings["temperature"] if isinstance(settings["temperature"], list) else [settings["temperature"]]
    if settings.get("concurrency", 1) == 1:
        yield (
            "Measured one prompt at a time. With many requests at once a pass is full without drafts, and they gain less: see "
            "`--concurrency` and `--server`."
        )
    if max(temperatures) == 0:
        yield "Measured at temperature 0. The higher the temperature, the fewer draft tokens are accepted: see `--temperature 0,0.8`."
    num_looping = next((row.num_prompts for row in rows if row.category == LOOPING), 0)
    if num_looping:
        yield f"Not counted: prompts whose answer runs in circles, {num_looping} here. Drafting them is easy and says little."
    yield "Other prompts, models, precisions and machines give other figures: `outpace tune` measures yours."
