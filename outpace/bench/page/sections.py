"""What a page is made of: bars with intervals, stacked bars, tables of shares, tables, sentences. `page.html.j2` draws each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from outpace.engine.step_record import PARTS

PART_WORDS = {"draft": "drafting", "forward": "forward pass", "verify": "verifying", "rest": "the rest"}
HEADROOM = 1.04  # of the scale over its longest bar


@dataclass(frozen=True)
class Bar:
    """One bar: `value` with its interval, in the unit of the section; `text` is what stands beside it. `tone`: "", bad, faint or peer.
    `share`, `left` and `right` are percentages of the scale, set by `bars`."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    tone: str = ""
    note: str = ""
    share: float = 0.0
    left: float | None = None
    right: float | None = None


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `share` (0 to 1) is how strongly it is coloured, by `tone`: good or bad."""

    text: str
    share: float = 0.0
    tone: str = "good"
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One part of the page: a heading, a sentence that says how to read it, and one kind of content."""

    id: str
    title: str
    lead: str
    kind: str  # bars, stacks, table or list
    rows: Sequence[Any]
    headings: Sequence[str] = ()  # of a table
    mark: float | None = None  # percentage of the scale at which a line stands, for bars
    mark_text: str = ""
    legend: Mapping[str, str] = field(default_factory=dict)  # part -> words, for stacks
    caption: str = ""


def bars(id: str, title: str, lead: str, rows: Sequence[Bar], mark: float | None = None, mark_text: str = "", caption: str = "") -> Section:
    """Bars on one scale that starts at 0; `mark` is the value at which a line stands."""
    ends = [max(bar.value, bar.high or 0.0) for bar in rows]
    scale = HEADROOM * max([*ends, mark or 0.0, 1e-9])
    placed = [
        replace(
            bar,
            share=percent(bar.value, scale),
            left=None if bar.low is None else percent(bar.low, scale),
            right=None if bar.high is None else percent(bar.high, scale),
        )
        for bar in rows
    ]
    return Section(
        id, title, lead, "bars", placed, mark=None if mark is None else percent(mark, scale), mark_text=mark_text, caption=caption
    )


def time_section(rows: Mapping[str, Mapping[str, Any]]) -> Section:
    """Where the time of a step goes; `rows`: label -> `StepTotals.document()`."""
    longest = max((sum(row["milliseconds"].values()) for row in rows.values()), default=0.0) or 1e-9
    stacks = [
        {
            "label": label,
            "text": f"{sum(row['milliseconds'].values()):.1f} ms",
            "parts": [
                {
                    "part": part,
                    "share": percent(row["milliseconds"][part], HEADROOM * longest),
                    "words": f"{PART_WORDS[part]}: {row['milliseconds'][part]:.2f} ms",
                }
                for part in PARTS
            ],
            "note": ", ".join(f"{PART_WORDS[part]} {row['milliseconds'][part]:.2f}" for part in PARTS),
        }
        for label, row in rows.items()
    ]
    lead = "Mean milliseconds of a step that runs no part of a prompt. Drafting includes what drafters learn from the outputs."
    return Section("time", "Where the time of a step goes", lead, "stacks", stacks, legend=PART_WORDS)


def position_section(rows: Mapping[str, Mapping[str, Any]]) -> Section | None:
    """Which positions of drafts are accepted; None without drafts."""
    found = {label: row["acceptance_by_position"] for label, row in rows.items() if row["acceptance_by_position"]}
    if not found:
        return None
    most = max(len(shares) for shares in found.values())
    table = [
        [Cell(label), *(Cell(f"{100 * share:.0f}%", share) for share in shares), *([Cell("")] * (most - len(shares)))]
        for label, shares in found.items()
    ]
    lead = (
        "Share of the drafts whose token at this position was accepted. Where it falls fast, shorter drafts or more alternatives gain more."
    )
    headings = ["drafter", *(str(position) for position in range(1, most + 1))]
    return Section("positions", "Acceptance by position in the draft", lead, "table", table, headings)


def pass_section(costs: Sequence[Mapping[str, Any]], floor: Mapping[str, Any] | None, source: str) -> Section:
    """What a forward pass costs by its number of tokens, beside the time that reading the weights takes."""
    rows = [
        Bar(
            f"{entry['num_tokens']} tokens",
            entry["milliseconds"],
            f"{entry['milliseconds']:.1f} ms",
            note=f"{entry['milliseconds'] / entry['num_tokens']:.1f} ms per token"
            + (f", {entry['num_passes']} passes" if "num_passes" in entry else ""),
        )
        for entry in costs
    ]
    if floor is None:
        return bars("passes", "Cost of a forward pass by its tokens", source, rows)
    gigabytes, speed, least = floor["weight_bytes"] / 1e9, floor["gigabytes_per_second"], floor["milliseconds"]
    lead = (
        f"{source} The line is the time to read the weights once: {gigabytes:.2f} GB at the {speed:.1f} GB/s that this machine was "
        f"measured to read, {least:.1f} ms. No pass can be faster unless the weights fit into the processor's cache."
    )
    return bars("passes", "Cost of a forward pass by its tokens", lead, rows, least, f"memory: {least:.1f} ms")


def percent(value: float, scale: float) -> float:
    """The share of a scale in percent, rounded for the page."""
    return round(100 * value / scale, 2)
