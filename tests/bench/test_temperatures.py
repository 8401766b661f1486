"""Temperatures and seeds side by side."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from outpace.bench.temperatures import merged, parse_temperatures, points, table
from outpace.errors import BadInputError


def row(drafter: str, num_tokens: int, per_step: float, seconds: float, identical: int = 2) -> dict[str, Any]:
    counts = {"num_prompts": 2, "num_tokens": num_tokens, "num_identical": identical}
    return {"drafter": drafter, "category": "all", "tokens_per_step": per_step, "decode_seconds": seconds, **counts}


def document(temperature: float, seed: int, *rows: dict[str, Any]) -> dict[str, Any]:
    settings = {"temperature": temperature, "seed": seed, "precision": "int8", "num_prompts": 2}
    return {"model": "m", "settings": settings, "results": list(rows)}


DOCUMENTS = [
    document(0.0, 5, row("none", 40, 1.0, 4.0), row("fast", 40, 2.0, 2.0)),
    document(0.8, 5, row("none", 60, 1.0, 6.0), row("fast", 60, 1.5, 4.0)),
    document(0.8, 6, row("none", 20, 1.0, 2.0), row("fast", 20, 1.0, 2.0, 1)),
]


def test_greedy_runs_once_and_sampled_once_per_seed():
    assert points([0.0, 0.8], 5, 3) == [(0.0, 5), (0.8, 5), (0.8, 6), (0.8, 7)]
    assert points([0.7], None, 2) == [(0.7, None), (0.7, 1)]


@pytest.mark.parametrize("text", ["", "a", "0,,1", "-1", "nan", "inf"])
def test_what_is_no_temperature_is_refused(text):
    with pytest.raises(BadInputError, match="--temperature must be"):
        parse_temperatures(text)


def test_every_temperature_counts_once():
    assert parse_temperatures("0.8,0,0.80") == [0.8, 0.0]


def test_totals_over_seeds_are_sums():
    """80 tokens in 40 + 20 steps, in 6 seconds; plain decoding takes 8."""
    found = {(entry["drafter"], entry["temperature"]): entry for entry in merged(DOCUMENTS)["temperatures"]}
    fast = found["fast", 0.8]
    assert (fast["tokens_per_step"], fast["lowest"], fast["highest"], fast["num_seeds"]) == (round(80 / 60, 3), 1.0, 1.5, 2)
    assert (fast["tokens_per_second"], fast["speedup"]) == (13.33, 1.333)
    assert (fast["num_identical"], fast["num_prompts"]) == (3, 4)
    assert (found["fast", 0.0]["tokens_per_step"], found["fast", 0.0]["speedup"]) == (2.0, 2.0)
    assert found["none", 0.8]["speedup"] == 1.0


def test_the_document_keeps_every_result():
    whole = merged(DOCUMENTS)
    assert [(entry["temperature"], entry["seed"]) for entry in whole["results"]] == [(0.0, 5)] * 2 + [(0.8, 5)] * 2 + [(0.8, 6)] * 2
    assert (whole["settings"]["temperature"], whole["settings"]["seed"]) == ([0.0, 0.8], [5, 6])
    assert json.loads(json.dumps(whole)) == whole


def test_the_table_has_a_column_group_per_temperature():
    out = io.StringIO()
    Console(file=out, width=160).print(table(merged(DOCUMENTS)))
    text = out.getvalue()
    assert "tokens/step at 0 " in text
    assert "speedup at 0.8" in text
    assert "1.33 (1.00 to 1.50)" in text
    assert "3/4" in text


def test_a_category_of_one_temperature_only_and_one_without_prompts():
    """Looping answers are a category of their own: it may be missing at one temperature, or hold every prompt."""
    looping = {**row("none", 80, 1.0, 8.0), "category": "looping"}
    empty = {**row("none", 0, 0.0, 0.0), "num_prompts": 0}
    found = merged([document(0.0, 0, row("none", 40, 1.0, 4.0)), document(0.8, 0, empty, looping)])
    rows = {(entry["category"], entry["temperature"]): entry for entry in found["temperatures"]}
    assert rows["looping", 0.8]["tokens_per_step"] == 1.0
    assert (rows["all", 0.8]["tokens_per_step"], rows["all", 0.8]["speedup"]) == (0.0, 0.0)
    assert table(found).row_count == 2
