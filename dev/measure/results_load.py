"""The parts of docs/results/README.md that are not about one run of drafters: the server under load, and the cost of drafting."""

from __future__ import annotations

import json
from pathlib import Path

STORE = Path(__file__).parents[2] / "docs" / "results"
LOAD = "load"  # the document of `outpace bench --server`; measured by hand because it takes long


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def spread(times: dict[str, float], unit: float = 1.0, digits: int = 0) -> str:
    """Median / 95th percentile."""
    return f"{times['median'] / unit:.{digits}f} / {times['p95'] / unit:.{digits}f}"


def under_load() -> list[str]:
    """The server under load; empty if that has not been measured."""
    if not (STORE / f"{LOAD}.json").exists():
        return []
    document = json.loads((STORE / f"{LOAD}.json").read_text("utf-8"))
    settings, rows = document["settings"], document["load"]
    times = f"{settings['repeats']} times {settings['seconds']:g}" if settings["repeats"] > 1 else f"{settings['seconds']:g}"
    command = " ".join(
        ["outpace bench --prompts question_even.jsonl", *([f"--limit {settings['limit']}"] if settings["limit"] else [])]
        + ["--max-tokens", str(settings["max_tokens"]), "--seconds", f"{settings['seconds']:g}"]
        + ["--repeats", str(settings["repeats"])] * (settings["repeats"] > 1)
        + ["--temperature", f"{settings['temperature']:g}"] * (settings["temperature"] > 0)
        + ["--clients", ",".join(dict.fromkeys(str(row["num_clients"]) for row in rows))]
        + ["--drafters", ",".join(dict.fromkeys(row["drafter"] for row in rows)), "--json", f"{LOAD}.json", "--server"]
    )
    cached = sum(row["num_cached_prompt_tokens"] for row in rows) / max(1, sum(row["num_prompt_tokens"] for row in rows))
    single = ", ".join(f"`{row['drafter']}` {row['num_identical']}/{row['num_prompts']}" for row in document["single"][1:])
    head = ["clients", "drafter", "requests", "errors", "lost", "mixed up", "repeated", "tokens/s", "speedup"]
    return [
        f"## Server under load\n\n```\n{command}\n```\n\nEach client sends its next request as soon as the previous answer is complete. "
        f"Each number of clients and drafter ran for {times} s, drafters in turn: {settings['num_prompts']} prompts, temperature "
        f"{settings['temperature']:g}, at most {settings['max_tokens']} tokens, at most 16 requests decoded concurrently, clients in the "
        f"server's process. Measured on {document['machine']['cores']} cores of {document['machine']['cpu']}.",
        "*Mixed up* counts answers that differ in any character from the answer a single client got for the same prompt and seed. Drafters "
        "start each turn with empty tables; *repeated* counts requests whose prompt had already been sent in the same turn. "
        f"{100 * cached:.0f}% of the prompt tokens came from the prefix cache. Single-client answers identical to plain decoding: "
        f"{single}.",
        table(
            [*head, "first token, ms", "per token, ms", "request, s"],
            [
                [str(row["num_clients"]), f"`{row['drafter']}`"]
                + [str(row[name]) for name in ("num_requests", "num_errors", "num_lost", "num_mixed_up", "num_repeated")]
                + [f"{row['tokens_per_second']:.1f}", f"{row['speedup']:.2f}", spread(row["first_token_ms"])]
                + [spread(row["per_token_ms"], digits=1), spread(row["request_ms"], 1e3, 1)]
                for row in rows
            ],
        ),
        "Times are median / 95th percentile as seen by the clients, queueing included. *Per token* excludes the first token.",
    ]


def drafting() -> list[str]:
    """The cost of drafting by length of the context; empty if that has not been measured."""
    if not (STORE / "drafting.json").exists():
        return []
    document = json.loads((STORE / "drafting.json").read_text("utf-8"))
    lengths = list(dict.fromkeys(cost["context"] for cost in document["costs"]))
    cells: dict[str, dict[int, str]] = {}
    for cost in document["costs"]:
        cells.setdefault(cost["drafter"], {})[cost["context"]] = f"{cost['propose_us_per_guess']:.0f} ({cost['propose_us']:.0f})"
    return [
        "## Cost of drafting\n\n```\npython dev/measure/drafters/drafting_cost.py drafting.json\n```\n\n"
        f"Microseconds per draft token and, in parentheses, per draft of up to {document['num_nodes']} tokens, by tokens of context. "
        "No model runs.",
        table(["context", *(f"{length:,}" for length in lengths)], [[f"`{name}`", *row.values()] for name, row in cells.items()]),
    ]
