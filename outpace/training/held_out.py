"""What every kind of helper tells of held-out texts, and whether they are the model's own, without which no acceptance is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outpace.arrays import Array
from outpace.training.data.shards import Rows

OWN_SHARE = 0.98  # of tokens that the model would have written itself, for texts to count as its own
NOT_OWN = "The texts are not the model's own answers (--generate), so they do not tell how many guesses it would keep."
TOPS = (1, 2, 3, 5, 10)


def are_own(rows: Rows, places: Array) -> bool:
    """Has the model written what follows the rows at these places [n] itself?"""
    return bool((rows.best[places] == rows.tokens[places]).mean() >= OWN_SHARE)


def accuracy_table(measured: str, first: str, accuracies: Sequence[Sequence[float]]) -> Any:
    """A rich table: how often the right token is among the first guesses. `measured`: on what; `first`: what a row of it stands for;
    accuracies [n][10], top-1 to top-10."""
    from rich.table import Table

    table = Table(title=f"{measured} held-out texts: is the right token among the first guesses?")
    table.add_column(first)
    for top in TOPS:
        table.add_column(f"top {top}", justify="right")
    for number, shares in enumerate(accuracies, 1):
        table.add_row(str(number), *(f"{shares[top - 1]:.1%}" for top in TOPS))
    return table
