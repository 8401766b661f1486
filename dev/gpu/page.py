"""The tables of docs/gpu.md, from the JSON document of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLACE = re.compile(r"(<!-- gpu -->\n).*?(<!-- end of gpu -->)", re.DOTALL)
TITLE = "# On a GPU: not measured"


def write_page(page: Path, document: dict[str, Any]) -> None:
    """Put the tables into the page, and the device into its title. Raises ValueError for a run on the CPU, whose figures mean nothing."""
    if document["is_cpu"]:
        raise ValueError("this document was measured on the CPU; docs/gpu.md shows figures of a GPU only")
    text = page.read_text("utf-8")
    lines = text.splitlines()
    lines[0] = f"# On a GPU: measured on one {document['machine']['device']}"
    page.write_text(PLACE.sub(lambda found: f"{found[1]}\n{tables(document)}\n{found[2]}", "\n".join(lines) + "\n"), "utf-8")


def tables(document: dict[str, Any]) -> str:
    """The document as Markdown; sections that failed or were left out say so."""
    machine = document["machine"]
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}"
    parts = [f"{machine['device']}, {machine['gb_per_second']} GB/s by a copy, {versions}."]
    for name, section in document["sections"].items():
        show = SHOWN.get(name)
        if "result" not in section:
            parts.append(f"{name}: {section.get('error') or 'left out, ' + section['left_out']}")
        elif show:
            parts.append(show(section["result"]))
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def _costs(results: list[dict[str, Any]]) -> str:
    parts = []
    for result in results:
        head = [f"{result['model']}: ms by tokens", *result["sizes"]]
        rows = [[name, *times, *[""] * (len(result["sizes"]) - len(times))] for name, times in result["milliseconds"].items()]
        floor = f"Reading the weights and {result['context']} tokens of K/V takes {result['memory_floor']} ms at that bandwidth."
        parts.append(f"{_table(head, rows)}\n\n{floor}")
    return "\n\n".join(parts)


def _decoding(result: dict[str, Any]) -> str:
    rows = []
    for row in result["rows"]:
        name = f"{row['side']} `{row['name']}`" + (f", exact width {row['exact_width']}" if "exact_width" in row else "")
        identical = f"{row['identical']} of {result['num_prompts']}"
        rows.append([name, row["at_once"], row["tokens_per_second"], row.get("tokens_per_step", ""), identical])
    head = [f"{result['model']}, {result['num_prompts']} prompts", "at once", "tokens/s", "tokens per step", "identical to plain"]
    return _table(head, rows)


def _simulation(results: list[dict[str, Any]]) -> str:
    parts = ["Simulation: passes are real, the share of right draft tokens is given."]
    for result in results:
        fields = ("at_once", "share", "draft_tokens", "tokens_per_second", "tokens_per_step")
        rows = [["plain" if row[field] is None else row[field] for field in fields] for row in result["rows"]]
        parts.append(_table([f"{result['model']}: at once", "right", "draft tokens", "tokens/s", "tokens per step"], rows))
    return "\n\n".join(parts)


def _training(result: dict[str, Any]) -> str:
    right = ", ".join(f"{share:.0%}" for share in result["first_token_right"])
    return (
        f"Training of Medusa heads for {result['model']}: {result['num_texts']} texts written in {result['seconds_writing']} s, "
        f"{result['num_steps']} steps in {result['seconds_training']} s; first guess right on held-out texts: {right}."
    )


SHOWN = {
    "pass_cost": _costs,
    "decoding": _decoding,
    "simulation": _simulation,
    "training": _training,
    "tests": lambda result: f"Tests on this device: {result['summary']}",
}
