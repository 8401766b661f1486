"""The documents of the benchmarks as tables for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def tables(document: dict[str, Any]) -> list[Table]:
    """The cost of a forward pass, then one row per drafter and category. Rows of a drafter that failed say so instead of a speedup."""
    cost = Table(title="cost of a forward pass (256 tokens of context)")
    for entry in document["verify_cost"]:
        cost.add_column(f"{entry['num_tokens']} tokens", justify="right")
    cost.add_row(*(f"{entry['milliseconds']:.1f} ms" for entry in document["verify_cost"]))
    settings = document["settings"]
    title = f"{document['model']} {settings['precision']}, {settings['num_prompts']} prompts, temperature {settings['temperature']:g}"
    results = Table(title=title)
    for heading in ("drafter", "category", "prompts", "tokens", "tokens/s", "tokens/step", "accepted", "speedup", "identical"):
        results.add_column(heading, justify="left" if heading in ("drafter", "category") else "right")
    for index, row in enumerate(document["results"]):
        results.add_row(
            row["drafter"],
            row["category"],
            str(row["num_prompts"]),
            str(row["num_tokens"]),
            f"{row['tokens_per_second']:.1f}",
            f"{row['tokens_per_step']:.2f}",
            f"{100 * row['acceptance_rate']:.0f}%",
            "failed" if row.get("num_failed") else f"{row['speedup']:.2f}",
            f"{row['num_identical']}/{row['num_prompts']}",
            end_section=index + 1 == len(document["results"]) or document["results"][index + 1]["category"] == "all",
        )
    return [cost, results, *([_peer_table(document)] if document.get("peers") else [])]


def _peer_table(document: dict[str, Any]) -> Table:
    """One row per way of a peer and category, in the same turns as our rows."""
    table = Table(
        title="peers, in the same turns", caption="of outpace: tokens/s / those of our plain decoding; speedup, identical: own plain"
    )
    for heading in ("peer", "category", "prompts", "tokens", "tokens/s", "speedup", "of outpace", "identical"):
        table.add_column(heading, justify="left" if heading in ("peer", "category") else "right")
    rows = document["peers"]
    for index, row in enumerate(rows):
        figures = [str(row["num_tokens"]), f"{row['tokens_per_second']:.1f}", f"{row['speedup']:.2f}", f"{row['relative_speed']:.2f}"]
        failed = "failed" if row["error"] else f"{row['num_identical']}/{row['num_prompts']}"
        is_last = index + 1 == len(rows) or rows[index + 1]["category"] == "all"
        table.add_row(row["peer"], row["category"], str(row["num_prompts"]), *figures, failed, end_section=is_last)
    return table


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
