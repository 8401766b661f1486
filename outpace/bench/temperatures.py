"""Several temperatures and seeds side by side: one benchmark each, summed up per drafter, category and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from outpace.errors import BadInputError

BASELINE = "none"
Key = tuple[str, str, float]  # drafter, category, temperature


@dataclass(frozen=True)
class Summary:
    """One drafter on one category at one temperature, over all seeds; `lowest` and `highest` are tokens per step of single seeds."""

    drafter: str
    category: str
    temperature: float
    num_seeds: int
    tokens_per_step: float
    lowest: float
    highest: float
    tokens_per_second: float
    speedup: float
    num_identical: int
    num_prompts: int


def parse_temperatures(text: str) -> list[float]:
    """The numbers of "0,0.8", each once. Raises BadInputError."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInputError(f"--temperature must be numbers, separated by commas, not {text!r}") from error
    if not all(0 <= value < float("inf") for value in values):
        raise BadInputError(f"--temperature must be at least 0, not {text}")
    return list(dict.fromkeys(values))


def points(temperatures: Sequence[float], seed: int | None, num_seeds: int) -> list[tuple[float, int | None]]:
    """(temperature, seed) of each benchmark: greedy texts do not depend on the seed, so temperature 0 runs once."""
    return [(temperature, (seed or 0) + i if i else seed) for temperature in temperatures for i in range(num_seeds if temperature else 1)]


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document from those of all points: every result with its temperature and seed, and `temperatures`, the summaries."""
    first, settings = documents[0], [document["settings"] for document in documents]
    results, steps = (
        [
            {**row, "temperature": setting["temperature"], "seed": setting["seed"]}
            for document, setting in zip(documents, settings, strict=True)
            for row in document.get(name, [])
        ]
        for name in ("results", "steps")
    )
    common = {**settings[0], "temperature": list(dict.fromkeys(setting["temperature"] for setting in settings))}
    common["seed"] = list(dict.fromkeys(setting["seed"] for setting in settings))
    return {**first, "settings": common, "results": results, "steps": steps, "temperatures": [asdict(row) for row in summaries(results)]}


def summaries(results: Sequence[dict[str, Any]]) -> list[Summary]:
    """One row per drafter, category and temperature."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["drafter"], row["category"], row["temperature"]), []).append(row)
    speeds = {key: _ratio(rows, "decode_seconds") for key, rows in groups.items()}
    found = []
    for key, rows in groups.items():
        drafter, category, temperature = key
        plain = speeds.get((BASELINE, category, temperature), 0.0)
        per_step = [row["tokens_per_step"] for row in rows]
        num_tokens, num_steps = (
            sum(row["num_tokens"] for row in rows),
            sum(row["num_tokens"] / (row["tokens_per_step"] or 1.0) for row in rows),
        )
        found.append(
            Summary(
                drafter,
                category,
                temperature,
                len(rows),
                round(num_tokens / num_steps, 3) if num_steps else 0.0,
                min(per_step),
                max(per_step),
                round(speeds[key], 2),
                round(speeds[key] / plain, 3) if plain else 0.0,
                sum(row["num_identical"] for row in rows),
                sum(row["num_prompts"] for row in rows),
            )
        )
    return found


def _ratio(rows: Sequence[dict[str, Any]], name: str) -> float:
    total = sum(row[name] for row in rows)
    return float(sum(row["num_tokens"] for row in rows) / total) if total else 0.0


def table(document: dict[str, Any]) -> Table:
    """Drafters and categories down, temperatures across: tokens per step (lowest and highest seed), speedup, identical answers."""
    rows = document["temperatures"]
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    cells = {(row["drafter"], row["category"], row["temperature"]): row for row in rows}
    found = Table(title=f"{document['model']} {document['settings']['precision']}, {document['settings']['num_prompts']} prompts")
    for heading in ("drafter", "category", *(f"{name} at {t:g}" for t in temperatures for name in ("tokens/step", "speedup", "identical"))):
        found.add_column(heading, justify="left" if heading in ("drafter", "category") else "right")
    for drafter, category in dict.fromkeys((row["drafter"], row["category"]) for row in rows):
        figures: list[str] = []
        for temperature in temperatures:
            row = cells.get((drafter, category, temperature))
            if row is None:  # a category of this temperature only, such as looping answers
                figures += ["–"] * 3
                continue
            spread = f" ({row['lowest']:.2f} to {row['highest']:.2f})" if row["num_seeds"] > 1 else ""
            figures += [f"{row['tokens_per_step']:.2f}{spread}", f"{row['speedup']:.2f}", f"{row['num_identical']}/{row['num_prompts']}"]
        found.add_row(drafter, category, *figures)
    return found
