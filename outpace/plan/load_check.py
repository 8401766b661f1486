"""A plan beside what a load test measured (`outpace bench --server --json`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from outpace.errors import BadInputError
from outpace.plan.profile import Profile
from outpace.plan.throughput import Load, speeds

PLAIN = "none"
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
    try:
        rows = [row for row in document["load"] if row["num_requests"] and row["num_tokens"] and row["tokens_per_second"]]
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
        raise BadInputError(f"this is no document of `outpace bench --server`: {error}") from error
    return checks
