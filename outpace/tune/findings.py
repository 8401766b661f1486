"""The results of tuning as one JSON document, as tables for people, and as a file of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

import outpace
from outpace.bench.intervals import Estimate, Sample, speedup
from outpace.bench.runner import machine
from outpace.bench.tables import SpecText
from outpace.bench.trust import interval_text
from outpace.config import FILE_VERSION, SpeculativeConfig
from outpace.engine.metrics import tokens_per_step
from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.tune.candidates import label
from outpace.tune.jobs import common
from outpace.tune.search import Outcome
from outpace.tune.verdict import Tried, Verdict, by_category

WIDE, USUAL = 121, 80  # characters of a line: with room for every column; of most terminals
LEAST = {"method": 14, "95%": 12, "remark": 8}  # characters of a column at USUAL, else as many as its heading has


def document(
    llm: LLM, samples: Sequence[SamplingParams], time_limit: float, outcome: Outcome, advice: Verdict, loading: Mapping[str, Any]
) -> dict[str, Any]:
    """All results, JSON-ready; "config" is the content of the settings file, with `loading`, the options that loaded the model."""
    names = ("temperature", "top_p", "seed", "max_tokens")
    settings = {"outpace": outpace.__version__, "precision": llm.precision, "time_limit": time_limit}
    found = {
        "model": llm.name,
        "machine": machine(),
        "settings": {**settings, **{name: common(samples, name) for name in names}},
        "seconds": round(outcome.seconds, 2),
        "is_interrupted": outcome.is_interrupted,
        "failed_prompts": outcome.failed_prompts,
        "results": [row for entry in outcome.tried for row in _rows(entry)],
        "verdict": advice.text,
        "is_trusted": advice.is_trusted,
    }
    return {**found, "config": _config(found, advice, loading)}


def _rows(entry: Tried) -> list[dict[str, Any]]:
    """The total ("all") and one row per category."""
    categories = dict.fromkeys(sample.category for sample in entry.samples)
    status = {"failure": entry.failure or None, "dropped": entry.dropped or None}
    groups = {"all": entry.samples} | {name: [s for s in entry.samples if s.category == name] for name in categories}
    return [{**_settings(entry.config), "category": name, **_figures(samples), **status} for name, samples in groups.items()]


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    num_tokens = sum(sample.num_tokens for sample in samples)
    return {
        "num_prompts": len(samples),
        "num_tokens": num_tokens,
        "tokens_per_step": round(tokens_per_step(num_tokens, sum(sample.num_steps for sample in samples)), 3),
        **_interval(speedup(samples)),
        "num_identical": sum(sample.is_identical for sample in samples),
    }


def _interval(estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {"speedup": None, "low": None, "high": None}
    values = {"speedup": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: None if value is None else round(value, 3) for name, value in values.items()}


def _settings(config: SpeculativeConfig) -> dict[str, Any]:
    count = {} if config.num_draft_tokens is None else {"num_draft_tokens": config.num_draft_tokens}
    check = {} if config.verifier == "exact" else {"verifier": config.verifier}
    return {"method": config.method, **count, **check}


def _config(found: dict[str, Any], advice: Verdict, loading: Mapping[str, Any]) -> dict[str, Any]:
    """The settings file: settings that every command reads, and under "measured" their origin, which no command reads."""
    chosen = advice.closest if advice.closest and advice.closest.config == advice.config else None
    measured = {
        "model": found["model"],
        "cpu": found["machine"]["cpu"],
        "cores": found["machine"]["cores"],
        "date": datetime.now(UTC).date().isoformat(),
        **found["settings"],
        "num_prompts": len(chosen.samples) if chosen else max((row["num_prompts"] for row in found["results"]), default=0),
        **_interval(chosen.speedup if chosen else Estimate(1.0, None, None, 0)),
        "categories": {name: _interval(each) for name, each in by_category(chosen.samples).items()} if chosen else {},
        "verdict": advice.text,
    }
    load = {"load": dict(loading)} if loading else {}
    return {"version": FILE_VERSION, **_settings(advice.config), **load, "measured": measured}


def tables(found: dict[str, Any], outcome: Outcome, advice: Verdict, width: int = WIDE) -> list[Table]:
    """All candidates, fastest first; then the categories of the chosen one (or of the closest).

    `width`: of the terminal, in characters; a narrow one gets fewer columns.
    """
    settings = found["settings"]
    temperature = settings["temperature"]
    at = " and ".join(f"{value:g}" for value in (temperature if isinstance(temperature, list) else [temperature]))
    title = f"{found['model']} {settings['precision']}, temperature {at}, {outcome.seconds:.0f} s of tuning"
    overall = Table(title=title, caption="speedup over plain decoding, from total decoding times; 95% confidence interval over prompts")
    figures = ("tokens/step", "speedup", "95%", "identical")
    for heading in ("method", *(("drafted", "prompts") if width >= WIDE else ()), *figures, "remark"):
        overall.add_column(heading, justify="left" if heading in ("method", "remark") else "right", overflow="fold")
    if USUAL <= width < WIDE:
        for column in overall.columns:
            column.min_width = LEAST.get(str(column.header), len(str(column.header)))
            column.max_width = column.min_width + (width - USUAL if column.header in LEAST else 0)
    for entry in sorted(outcome.tried, key=_order):
        chosen = entry is advice.closest and entry.config == advice.config
        reason = "chosen" if chosen else entry.failure or entry.dropped or ("" if entry.samples else "no time left")
        overall.add_row(*_first_cells(entry, width), reason, style="bold green" if chosen else None)
    if advice.closest is None or len(by_category(advice.closest.samples)) < 2:
        return [overall]
    categories = Table(title=label(advice.closest.config))
    for heading in ("category", "prompts", "tokens/step", "speedup", "95%", "identical"):
        categories.add_column(heading, justify="left" if heading == "category" else "right")
    for row in _rows(advice.closest):
        categories.add_row(row["category"], *_cells(row))
    return [overall, categories]


def _first_cells(entry: Tried, width: int) -> list[str | SpecText]:
    """All cells but the remark. A narrow table has the number of draft tokens beside the method, and that of prompts in "identical"."""
    config, figures = entry.config, _cells(_figures(entry.samples))
    count = "default" if config.num_draft_tokens is None else str(config.num_draft_tokens)
    if width >= WIDE:
        return [SpecText(config.method), count, *figures]
    return [SpecText(config.method if count == "default" else f"{config.method}, {count} drafted"), *figures[1:]]


def _order(entry: Tried) -> tuple[bool, float]:
    return bool(entry.dropped or entry.failure), -(found.value if (found := entry.speedup) else 0.0)


def _cells(row: dict[str, Any]) -> list[str]:
    """Cells for prompts, tokens per step, speedup, interval, identical."""
    value, low, high = row["speedup"], row["low"], row["high"]
    interval = "" if low is None else interval_text(low, high)
    figures = [str(row["num_prompts"]), f"{row['tokens_per_step']:.2f}", "" if value is None else f"{value:.2f}", interval]
    return [*figures, f"{row['num_identical']}/{row['num_prompts']}"]
