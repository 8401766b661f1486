"""The documents of the benchmarks as tables for people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from outpace.bench.summary import ALL, LOOPING
from outpace.bench.trust import interval_text

OF_OURS, NOTHING = "of ours", "–"
COLUMNS = {  # heading -> least width of the terminal that shows it
    "tokens/s": 0,
    "tokens/step": 0,
    "speedup": 0,
    "95%": 0,
    OF_OURS: 90,
    "identical": 0,
    "accepted": 100,
    "tokens": 110,
}
JOINTS = re.compile(r"[^+: ]*[+: ]|[^+: ]+")


@dataclass(frozen=True)
class SpecText:
    """`suffix+recycling`, `llama.cpp:ngram-mod` and the like, for a cell of a table: a line too long for it ends at a joint, never within a
    name."""

    spec: str

    def lines(self, width: int) -> list[str]:
        """The spec in as few lines of at most `width` characters as its joints allow; a longer part has a line of its own."""
        lines = [""]
        for part in JOINTS.findall(self.spec):
            if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
                lines.append("")
            lines[-1] += part
        return [line.rstrip() for line in lines]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(self.lines(options.max_width)), overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self.lines(1))), len(self.spec)).with_maximum(options.max_width)


def tables(document: dict[str, Any], width: int = 120, by_category: bool = False) -> list[Table]:
    """The cost of a forward pass, then one row per drafter and way of a peer, or with `by_category` one per category of each.

    `width`: of the terminal, in characters; narrow ones get fewer columns.
    """
    cost = Table(title="cost of a forward pass (256 tokens of context)")
    for entry in document["verify_cost"]:
        cost.add_column(f"{entry['num_tokens']} tokens", justify="right")
    cost.add_row(*(f"{entry['milliseconds']:.1f} ms" for entry in document["verify_cost"]))
    if floor := document.get("pass_floor"):
        speed = floor["gigabytes_per_second"]
        cost.caption = f"reading the weights takes at least {floor['milliseconds']:.1f} ms here: memory gives {speed:.1f} GB/s"
    return [cost, _results(document, width, by_category)]


def _results(document: dict[str, Any], width: int, by_category: bool) -> Table:
    settings = document["settings"]
    title = f"{document['model']} {settings['precision']}, {settings['num_prompts']} prompts, temperature {settings['temperature']:g}"
    columns = [name for name, least in COLUMNS.items() if width >= least and (name != OF_OURS or document["peers"])]
    table = Table(title=title, caption=_caption(document, OF_OURS in columns))
    for heading in ["drafter", *(["category"] if by_category else []), *columns]:
        is_text = heading in ("drafter", "category")
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold" if is_text else "ellipsis")
    rows = [row for row in [*document["results"], *document["peers"]] if by_category or row["category"] == ALL]
    for row, following in zip(rows, [*rows[1:], {}], strict=True):
        cells, name = _cells(row), _name(row)
        is_last = bool(following) and (name != _name(following) if by_category else ("peer" in row) != ("peer" in following))
        table.add_row(
            SpecText(name), *([row["category"]] if by_category else []), *(cells[column] for column in columns), end_section=is_last
        )
    return table


def _name(row: dict[str, Any]) -> str:
    return str(row.get("drafter", row.get("peer")))


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Column -> text of a row of results or peers."""
    is_peer, has_prompts = "peer" in row, row["num_prompts"] > 0
    is_failed = bool(row["error"] if is_peer else row.get("num_failed"))
    has_ratio = has_prompts and not row.get("noise")
    cells = {
        "tokens/s": f"{row['tokens_per_second']:.1f}" if has_prompts else NOTHING,
        "tokens/step": NOTHING if is_peer or not has_prompts else f"{row['tokens_per_step']:.2f}",
        "speedup": f"{row['speedup']:.2f}" if has_ratio else "too noisy" if has_prompts else NOTHING,
        "95%": interval_text(row.get("low"), row.get("high")) if has_ratio else NOTHING,
        OF_OURS: (f"{row['relative_speed']:.2f}" if is_peer else f"{row['speedup']:.2f}") if has_ratio else NOTHING,
        "identical": f"{row['num_identical']}/{row['num_prompts']}",
        "accepted": NOTHING if is_peer else f"{100 * row['acceptance_rate']:.0f}%",
        "tokens": str(row["num_tokens"]),
    }
    return {**cells, "speedup": "failed"} if is_failed else cells


def _caption(document: dict[str, Any], compares_engines: bool) -> str:
    """What a reader has to know about the figures."""
    rows = document["results"]
    reasons = dict.fromkeys(row.get("noise") for row in rows if row["category"] == ALL)
    lines = [f"Too noisy to trust: {reason}." for reason in reasons if reason]
    num_looping = next((row["num_prompts"] for row in rows if row["category"] == LOOPING), 0)
    if num_looping:
        lines.append(f"Not counted: prompts whose answer runs in circles, {num_looping} here; --by-category shows them.")
    if document["peers"]:
        of_ours = "; of ours: tokens/s / those of our plain decoding" if compares_engines else ""
        lines.append(f"speedup, identical: against the engine's own plain decoding{of_ours}.")
    failed = {_name(row): row["error"] for row in [*rows, *document["peers"]] if row["error"]}
    return "\n".join([*lines, *(f"{name} failed: {error}" for name, error in failed.items())])


def load_table(document: dict[str, Any]) -> Table:
    """A server under load: one row per level and drafter; times are median / 95th percentile."""
    settings = document["settings"]
    table = Table(title=f"{document['model']} under load: {settings['seconds']:g} s per level, {settings['num_prompts']} prompts")
    for heading in (
        "clients",
        "drafter",
        "requests",
        "errors",
        "lost",
        "mixed up",
        "repeated",
        "tokens/s",
        "gain",
        "first ms",
        "token ms",
        "request s",
    ):
        table.add_column(heading, justify="left" if heading == "drafter" else "right")
    for index, row in enumerate(document["load"]):
        table.add_row(
            str(row["num_clients"]),
            row["drafter"],
            *(str(row[name]) for name in ("num_requests", "num_errors", "num_lost", "num_mixed_up", "num_repeated")),
            f"{row['tokens_per_second']:.1f}",
            f"{row['speedup']:.2f}",
            *(f"{row[name]['median']:.0f} / {row[name]['p95']:.0f}" for name in ("first_token_ms", "per_token_ms")),
            f"{row['request_ms']['median'] / 1e3:.1f} / {row['request_ms']['p95'] / 1e3:.1f}",
            end_section=index + 1 == len(document["load"]) or document["load"][index + 1]["num_clients"] != row["num_clients"],
        )
    return table
