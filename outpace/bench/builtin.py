"""The prompts that come with outpace: `builtin`, 48 of six kinds, and `builtin:code`, 24 coding jobs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from outpace.bench.workloads import Workload, read_prompts, spread
from outpace.errors import BadInputError

BUILTIN = "builtin"
SETS = {BUILTIN: "general.toml", f"{BUILTIN}:code": "code.toml"}
FOLDER = Path(__file__).parents[1] / "assets" / "prompts"


def load_prompts(source: str, limit: int | None = None) -> list[Workload]:
    """The prompts of a file, or of a set in SETS; `limit` as in `read_prompts`. Raises BadInputError."""
    if source.partition(":")[0] != BUILTIN:
        return read_prompts(Path(source), limit)
    if source not in SETS:
        raise BadInputError(f"no prompts {source!r}; known: {', '.join(SETS)}, or a file of JSON lines")
    workloads = builtin_prompts(source)
    return workloads if limit is None else spread(workloads, limit)


def builtin_prompts(name: str = BUILTIN) -> list[Workload]:
    """All prompts of a set in SETS."""
    with (FOLDER / SETS[name]).open("rb") as file:
        return [_workload(job) for job in tomllib.load(file)["job"]]


def _workload(job: dict[str, Any]) -> Workload:
    source = job.get("source", "").strip("\n")
    body = f"```{job['language']}\n{source}\n```" if "language" in job else source
    content = f"{job['ask']}\n\n{body}" if source else job["ask"]
    prediction = f"{source}\n" if job.get("predict") else None
    return Workload(job["id"], job["category"], job["category"], [{"role": "user", "content": content}], prediction)
