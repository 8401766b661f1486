"""The sections of a benchmark's page, from its document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean
from typing import Any

from outpace.bench.page.advice import advice
from outpace.bench.page.sections import Bar, Cell, Section, bars, pass_section, position_section, time_section
from outpace.bench.summary import ALL, LOOPING, is_plain
from outpace.bench.trust import interval_text

Document = Mapping[str, Any]
DIVERGING = 1.0  # a speedup of 2 (or of 0) has the full colour


@dataclass(frozen=True)
class Row:
    """One drafter on one category at one temperature; `label` names the temperature where there are several."""

    label: str
    drafter: str
    category: str
    speedup: float
    low: float | None
    high: float | None
    tokens_per_second: float
    tokens_per_step: float
    num_identical: int
    num_prompts: int
    doubt: str = ""  # why the speedup is not to be trusted
    error: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether there is one; earlier versions wrote none."""
        return self.low is not None and self.high is not None

    @property
    def is_certain_gain(self) -> bool:
        return not self.doubt and self.low is not None and self.low > 1.0

    @property
    def is_loss(self) -> bool:
        return not self.doubt and self.high is not None and self.high < 1.0


def rows_of(document: Document) -> list[Row]:
    """The results of our drafters; of several seeds one row each, without an interval."""
    if "temperatures" not in document:
        return [_row(row, row["drafter"]) for row in document["results"]]
    doubts = {(row["drafter"], row["category"], row["temperature"]): row.get("noise") for row in document["results"]}
    return [
        _row(
            {**row, "noise": doubts.get((row["drafter"], row["category"], row["temperature"]))},
            f"{row['drafter']} at {row['temperature']:g}",
        )
        for row in document["temperatures"]
    ]


def _row(row: Mapping[str, Any], label: str) -> Row:
    return Row(
        label,
        row["drafter"],
        row["category"],
        row["speedup"],
        row.get("low"),
        row.get("high"),
        row["tokens_per_second"],
        row["tokens_per_step"],
        row["num_identical"],
        row["num_prompts"],
        row.get("noise") or "",
        (row.get("error") or "") if row.get("num_failed") else "",
    )


def headline(document: Document) -> tuple[str, str]:
    """The result in one sentence, and its tone."""
    rows = [row for row in rows_of(document) if row.category == ALL and not is_plain(row.drafter) and row.num_prompts]
    doubts = dict.fromkeys(row.doubt for row in rows if row.doubt)
    trusted = [row for row in rows if not row.doubt and not row.error]
    if not trusted:
        return (f"Nothing can be said of speed: {next(iter(doubts))}." if doubts else "No drafter was measured."), "neutral"
    best = max(trusted, key=lambda row: row.speedup)
    interval = interval_text(best.low, best.high)
    spread = f" (95% interval {interval})" if " to " in interval else f" ({interval})" if best.has_interval or best.num_prompts == 1 else ""
    same = f"{best.num_identical} of {best.num_prompts} answers have exactly the tokens of plain decoding"
    words = f"{best.label}: {best.speedup:.2f} times plain decoding{spread}, {best.tokens_per_second:.1f} tokens/s; {same}."
    return words, "good" if best.is_certain_gain else "neutral"


def result_sections(document: Document) -> list[Section]:
    """All sections that the document has figures for."""
    rows = rows_of(document)
    steps = _steps(document)
    source = "Median of passes behind 256 tokens of context, measured at the start of the run."
    cost = pass_section(document["verify_cost"], document.get("pass_floor"), source)
    found = [
        _speed(rows),
        _kinds(rows),
        _peers(document, rows),
        position_section(steps),
        cost,
        time_section(steps) if steps else None,
        Section(
            "advice", "When not to use it", "What this run says against drafting, and what it cannot say.", "list", advice(document, rows)
        ),
        _method(document),
    ]
    return [section for section in found if section is not None]


def _steps(document: Document) -> dict[str, Mapping[str, Any]]:
    """The steps of each drafter, at each temperature over all seeds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in document.get("steps", []):
        if row["num_steps"]:
            label = row["drafter"] + (f" at {row['temperature']:g}" if "temperature" in row else "")
            found.setdefault(label, []).append(row)
    return {label: _together(rows) for label, rows in found.items()}


def _together(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The means of several runs as those of one: by steps, and shares of drafts by drafts."""
    num_steps, num_drafts = [row["num_steps"] for row in rows], [row["num_drafts"] for row in rows]
    shares = zip_longest(*(row["acceptance_by_position"] for row in rows), fillvalue=0.0)
    return {
        "milliseconds": {part: fmean([row["milliseconds"][part] for row in rows], num_steps) for part in rows[0]["milliseconds"]},
        "acceptance_by_position": [fmean(share, num_drafts) for share in shares],
    }


def _speed(rows: Sequence[Row]) -> Section:
    whole = [row for row in rows if row.category == ALL]
    lead = "Speed / that of plain decoding, on the same prompts in the same turns. The thin line is the 95% interval over prompts."
    noisy = dict.fromkeys(row.doubt for row in whole if row.doubt)
    caption = " ".join(f"Grey: not to be trusted, as {reason}." for reason in noisy)
    return bars("speed", "Speed by drafter", lead, [_speed_bar(row) for row in whole], 1.0, "plain decoding", caption)


def _speed_bar(row: Row) -> Bar:
    if not row.num_prompts:
        return Bar(row.label, 0.0, "no prompts")
    if row.error:
        return Bar(row.label, 0.0, "failed", note=row.error)
    interval = interval_text(row.low, row.high) if row.low is not None and not is_plain(row.drafter) else ""
    facts = [interval, f"{row.tokens_per_second:.1f} tokens/s", f"{row.num_identical}/{row.num_prompts} identical"]
    tone = "faint" if row.doubt or is_plain(row.drafter) else "bad" if row.is_loss else ""
    note = ", ".join(fact for fact in facts if fact)
    ends = (None, None) if is_plain(row.drafter) else (row.low, row.high)
    return Bar(row.label, row.speedup, f"{row.speedup:.2f}", *ends, tone, note)


def _kinds(rows: Sequence[Row]) -> Section | None:
    """Speedups, drafters down, kinds of prompts across."""
    categories = [name for name in dict.fromkeys(row.category for row in rows) if name not in (ALL, LOOPING)]
    if not categories:
        return None
    if any(row.category == LOOPING for row in rows):
        categories.append(LOOPING)
    cells = {(row.label, row.category): row for row in rows}
    labels = dict.fromkeys(row.label for row in rows if not is_plain(row.drafter))
    table = [[Cell(label), *(_kind_cell(cells.get((label, name))) for name in categories)] for label in labels]
    lead = "Speedup and its 95% interval for each kind of prompt. The right drafter depends on the work: look at the kind that is yours."
    caption = (
        f'"{LOOPING}": answers that run in circles, which are drafted almost for free and count nowhere else.'
        if LOOPING in categories
        else ""
    )
    return Section("kinds", "Speed by kind of prompt", lead, "table", table, ["drafter", *categories], caption=caption)


def _kind_cell(row: Row | None) -> Cell:
    if row is None or not row.num_prompts:
        return Cell("–")
    if row.error:
        return Cell("failed")
    if row.doubt:
        return Cell(f"{row.speedup:.2f}", note="too noisy")
    share = min(1.0, abs(row.speedup - 1.0) / DIVERGING) if row.is_certain_gain or row.is_loss else 0.0
    note = interval_text(row.low, row.high) if row.low is not None else "1 prompt" if row.num_prompts == 1 else ""
    return Cell(f"{row.speedup:.2f}", share, "bad" if row.is_loss else "good", note)


def _peers(document: Document, rows: Sequence[Row]) -> Section | None:
    """Tokens per second of ours and of other engines."""
    peers = [row for row in document.get("peers", []) if row["category"] == ALL]
    if not peers:
        return None
    ours = [row for row in rows if row.category == ALL and not row.error]
    shown = [
        *(Bar(f"outpace {row.label}", row.tokens_per_second, f"{row.tokens_per_second:.1f} tokens/s", note=_our_note(row)) for row in ours),
        *(_peer_bar(row) for row in peers),
    ]
    lead = (
        "Tokens per second of decoding: the same prompts and token ids, in the same turns, each engine in a process of its own. "
        '"own plain" compares an engine with its own plain decoding: how much faster, and on how many prompts with the same text.'
    )
    return bars("peers", "Beside other engines", lead, shown)


def _our_note(row: Row) -> str:
    return "" if is_plain(row.drafter) else f"{row.speedup:.2f} of own plain, {row.num_identical}/{row.num_prompts} the same text"


def _peer_bar(row: Mapping[str, Any]) -> Bar:
    if row["error"]:
        return Bar(row["peer"], row["tokens_per_second"], "failed", tone="faint", note=row["error"])
    own = "" if is_plain(row["peer"]) else f"{row['speedup']:.2f} of own plain, {row['num_identical']}/{row['num_prompts']} the same text"
    return Bar(row["peer"], row["tokens_per_second"], f"{row['tokens_per_second']:.1f} tokens/s", tone="peer", note=own)


def _method(document: Document) -> Section:
    """How it was measured, in words."""
    settings, machine, noise = document["settings"], document.get("machine") or {}, document.get("noise") or {}
    versions = [f"outpace {settings.get('outpace', '?')}", f"openvino {machine['openvino']}" if "openvino" in machine else ""]
    other = noise.get("other_cpu_share")
    about = document.get("about_peers") or {}
    peers = dict.fromkeys(f"{name.partition(':')[0]}: {facts['version']}" for name, facts in about.items() if "version" in facts)
    times = "once" if settings.get("repeats", 1) == 1 else f"{settings['repeats']} times"
    rows = [
        f"Versions: {', '.join(part for part in [*versions, *peers] if part)}; {machine.get('system', 'system unknown')}, Python "
        f"{machine.get('python', 'unknown')}.",
        f"Each prompt ran {times} with each drafter, each drafter being first in turn; times are medians, of decoding without prefill.",
        "Load of the machine: not known."
        if other is None
        else f"Other programs took {100 * other:.0f}% of the CPU meanwhile (above 10% no time is trusted).",
        "identical: answers with exactly the tokens of plain decoding. Intervals: bootstrap over prompts, 95%, widened for few prompts.",
    ]
    return Section("method", "How it was measured", "", "list", rows)
