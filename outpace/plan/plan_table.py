"""Plans as tables and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from outpace.plan.load_check import Check
from outpace.plan.profile import Profile
from outpace.plan.throughput import Load, Point


def document_of(profile: Profile, load: Load, points: Sequence[Point], pays: int, checks: Sequence[Check]) -> dict[str, Any]:
    """Everything as one JSON-ready document; `Profile.load` reads its profile."""
    return {
        "profile": profile.save(),
        "load": asdict(load),
        "pays_up_to": pays,
        "plan": [{**asdict(point), "gain": point.gain, "per_client": point.per_client} for point in points],
        "checks": [{**asdict(check), "error": check.error, "is_good": check.is_good} for check in checks],
    }


def plan_table(profile: Profile, points: Sequence[Point]) -> Table:
    """One row per number of clients and machines; $/M is what a million tokens cost."""
    has_price = any(point.plain_cost is not None for point in points)
    table = Table(title=f"{profile.model}, drafter {profile.drafter}: tokens per second", title_justify="left")
    names = ["machines", "clients", "plain", "speculative", "gain", "tokens per step", "per client"]
    for name in [*names, *(["$/M plain", "$/M speculative"] if has_price else [])]:
        table.add_column(name, justify="right")
    for point in points:
        costs = [point.plain_cost, point.speculative_cost] if has_price else []
        table.add_row(
            str(point.num_replicas),
            str(point.num_clients),
            f"{point.plain:.0f}",
            f"{point.speculative:.0f}",
            f"{point.gain:.2f}",
            f"{point.tokens_per_step:.2f}",
            f"{point.per_client:.1f}",
            *("" if cost is None else f"{cost:.2f}" for cost in costs),
        )
    return table


def check_table(checks: Sequence[Check]) -> Table:
    """The plan beside the load test."""
    table = Table(title="The plan beside a load test: tokens per second", title_justify="left")
    for name in ("drafter", "clients", "planned", "measured", "error"):
        table.add_column(name, justify="left" if name == "drafter" else "right")
    for check in checks:
        colour = "" if check.is_good else "red"
        row = (check.drafter, str(check.num_clients), f"{check.planned:.0f}", f"{check.measured:.0f}", f"{check.error:+.0%}")
        table.add_row(*row, style=colour)
    return table


def verdict(pays: int, load: Load) -> str:
    """Up to how many clients drafting pays, in words."""
    if pays == 0:
        return "Drafting does not pay on this machine: serve with --drafter none, or try `outpace tune`."
    if pays >= load.max_num_seqs:
        return f"Drafting pays for any number of clients: at most {load.max_num_seqs} requests run at once."
    return f"Drafting pays up to {pays} requests at once on one machine; beyond that `auto` decodes plainly."
