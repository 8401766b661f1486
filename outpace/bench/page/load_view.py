"""The sections of a page about a server under load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outpace.bench.page.sections import Bar, Cell, Section, bars


def load_sections(document: Mapping[str, Any]) -> list[Section]:
    """Tokens per second by number of clients, and the times that clients see."""
    rows = document["load"]
    shown = [
        Bar(
            f"{row['num_clients']} clients, {row['drafter']}",
            row["tokens_per_second"],
            f"{row['tokens_per_second']:.1f} tokens/s",
            tone="faint" if row["drafter"] == "none" else "",
            note=f"{row['speedup']:.2f} of {rows[0]['drafter']}",
        )
        for row in rows
    ]
    lead = "Tokens per second of the whole server. Drafting gains most with few clients; with many a pass is full without drafts."
    headings = ["clients", "drafter", "requests", "errors", "lost", "first token, ms", "per token, ms", "request, s"]
    table = [
        [
            Cell(str(row["num_clients"])),
            Cell(row["drafter"]),
            *(Cell(str(row[name])) for name in ("num_requests", "num_errors", "num_lost")),
            *(_times(row[name], 1.0, 0) for name in ("first_token_ms", "per_token_ms")),
            _times(row["request_ms"], 1e-3, 1),
        ]
        for row in rows
    ]
    times = Section("times", "What clients see", "Median, and below it the 95th percentile.", "table", table, headings)
    return [bars("load", "Speed by number of clients", lead, shown), times]


def _times(figures: Mapping[str, float], unit: float, digits: int) -> Cell:
    return Cell(f"{figures['median'] * unit:.{digits}f}", note=f"{figures['p95'] * unit:.{digits}f}")
