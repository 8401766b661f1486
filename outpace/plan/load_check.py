"""A plan beside what a load test measured (`outpace bench --server --json`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from outpace.errors import BadInputError
from outpace.plan.profile import Profile, missing
from outpace.plan.throughput import Load, speeds

PLAIN = "none"
NEEDED = ("num_requests", "num_tokens", "tokens_per_second", "num_prompt_tokens", "num_cached_prompt_tokens", "num_clients", "drafter")
GOOD = 0.2  # relative error of a plan that is right


@dataclass(frozen=True)
class Check:
    """Tokens per second of one drafter at one number of clients."""

    drafter: str
    num_clients: int
    planned: float
    measured: float

    @property
    def error(self) -> float:
        """Relative; positive if the plan is too high."""
        return self.planned / self.measured - 1.0 if self.measured else 0.0

    @property
    def is_good(self) -> bool:
        return abs(self.error) <= GOOD


def compare(profile: Profile, load: Load, document: Mapping[str, Any]) -> list[Check]:
    """The plan for the requests that the load test sent, row by row. Raises BadInputError for another document, and for another model."""
    rows = [row for row in rows_of(document) if row["num_requests"] and row["num_tokens"] and row["tokens_per_second"]]
    try:
        if document["model"] != profile.model:
            raise BadInputError(f"the load test ran {document['model']}, the plan is for {profile.model}")
        checks = []
        for row in rows:
            own = replace(
                load,
                num_prompt_tokens=row["num_prompt_tokens"] / row["num_requests"],
                num_answer_tokens=row["num_tokens"] / row["num_requests"],
                cached_share=row["num_cached_prompt_tokens"] / max(1, row["num_prompt_tokens"]),
            )
            plain, speculative, _ = speeds(profile, own, row["num_clients"])
            planned = plain if row["drafter"] == PLAIN else speculative
            checks.append(Check(row["drafter"], row["num_clients"], planned, row["tokens_per_second"]))
    except (KeyError, TypeError) as error:
        raise _foreign(error) from error
    return checks


def rows_of(document: Any) -> list[Mapping[str, Any]]:
    """The rows of a load test. Raises BadInputError for another document."""
    try:
        rows = list(document["load"])
        for row in rows:
            _ = [row[name] for name in NEEDED]
    except (KeyError, TypeError) as error:
        raise _foreign(error) from error
    return rows


def _foreign(error: Exception) -> BadInputError:
    return BadInputError(f"the file of --check was not written by `outpace bench --server --json`{missing(error)}")
