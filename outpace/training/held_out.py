"""Metrics on held-out texts that all kinds of training share. Acceptance is known only if the model wrote the texts itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outpace.arrays import Array
from outpace.training.data.shards import Rows

OWN_SHARE = 0.98  # least share of tokens that the model predicts itself, for texts to count as its own
NOT_OWN = "The texts are not the model's own answers (--generate), so the acceptance length is unknown."
TOPS = (1, 2, 3, 5, 10)


def are_own(rows: Rows, places: Array) -> bool:
    """Whether the model itself wrote the tokens after these rows [n]."""
    return bool((rows.best[places] == rows.tokens[places]).mean() >= OWN_SHARE)


def accuracy_table(measured: str, first: str, accuracies: Sequence[Sequence[float]]) -> Any:
    """A rich table of top-1 to top-10 accuracies [n][10]. `measured` names the data, `first` is the heading of the first column."""
    from rich.table import Table

    table = Table(title=f"Accuracy on {measured} held-out texts")
    table.add_column(first)
    for top in TOPS:
        table.add_column(f"top {top}", justify="right")
    for number, shares in enumerate(accuracies, 1):
        table.add_row(str(number), *(f"{shares[top - 1]:.1%}" for top in TOPS))
    return table
