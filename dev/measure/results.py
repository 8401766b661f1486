"""Measure all drafters and write the tables of the documentation.

usage: python dev/measure/results.py measure PROMPTS.jsonl     runs `outpace bench` for every document of RUNS that docs/results/ lacks
       python dev/measure/results.py                           writes docs/results.md and the tables of docs/drafters/ from docs/results/

A test compares the pages with the documents in docs/results/.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
STORE = DOCS / "results"
CATEGORIES = {
    "all": "all",
    "chat": "chat",
    "translation": "translation",
    "summarization": "summarization",
    "qa": "QA",
    "math_reasoning": "math",
    "rag": "RAG",
}
ALONE = "blind,prompt_lookup,suffix,recycling:table=none,recycling,lookahead,blanks:blank= the,draft_model:self:8"
ALL = f"{ALONE},prompt_lookup+recycling,suffix+recycling,auto:suffix+recycling:table=none,auto"
TRAINED = (
    "recycling,medusa,eagle,eagle:max_depth=3,suffix+eagle:max_depth=3,suffix+recycling,suffix+recycling+medusa,"
    "auto,auto:suffix+recycling+medusa"
)
WIDE = {"medusa": "medusa:threshold=0.003", "eagle": "eagle:branches=8:threshold=0.003"}  # with 32 draft tokens
WIDEST = "medusa:threshold=0.001"  # with 60 draft tokens
LOAD = "load"  # the document of `outpace bench --server`, which is run by hand because it takes long
DEFEATING = "defeating.jsonl"  # written by dev/measure/defeating_prompts.py
USUAL = ("--limit", "48", "--max-tokens", "128", "--drafters")
RUNS: dict[str, list[str]] = {  # document -> options of outpace bench
    "greedy": [*USUAL, ALL],
    "trained": [*USUAL, TRAINED],
    "medusa-60": [*USUAL, WIDEST, "--num-draft-tokens", "60"],
    "trained-32": [*USUAL, ",".join(WIDE.values()), "--num-draft-tokens", "32"],
    "eagle": [*USUAL, "eagle,suffix+eagle:max_depth=3"],
    "blanks": [*USUAL, "blanks,blanks:after=end,blanks:blank= the"],
    "sampled": [*USUAL, ALL, "--temperature", "0.8", "--seed", "0", "--concurrency", "8"],
    "greedy-8": [*USUAL, "suffix+recycling,auto", "--concurrency", "8"],
    "defeating": ["--max-tokens", "128", "--drafters", "prompt_lookup,suffix+recycling,auto", "--temperature", "1", "--seed", "0"],
    "defeating-8": [
        "--max-tokens",
        "128",
        "--drafters",
        "auto",
        "--temperature",
        "1",
        "--seed",
        "0",
        "--repeats",
        "5",
        "--concurrency",
        "8",
    ],
}
EARLIER = {"trained-first": "trained"}  # documents of heads that are no longer shipped -> the run with the same options
BY_HAND = {  # documents that need a draft model that is not shipped (docs/drafters/ describes its training) -> options of outpace bench
    "draft": [*USUAL, "draft_model:small,draft_model:small:max_depth=3"],
}
MEDUSA = ["medusa", "suffix+recycling", "suffix+recycling+medusa", "auto", "auto:suffix+recycling+medusa"]
EAGLE = ["medusa", "eagle", "eagle:max_depth=3", "suffix+eagle:max_depth=3"]
PAGES: dict[str, dict[str, list[str]]] = {  # page of docs/drafters/ -> document -> rows of its table
    "blind": {"greedy": ["blind"]},
    "prompt_lookup": {"greedy": ["prompt_lookup", "suffix"]},
    "suffix": {"greedy": ["prompt_lookup", "suffix"]},
    "recycling": {"greedy": ["recycling:table=none", "recycling"]},
    "lookahead": {"greedy": ["lookahead", "prompt_lookup"]},
    "blanks": {"blanks": ["blanks:blank= the", "blanks", "blanks:after=end"]},
    "draft_model": {"greedy": ["draft_model:self:8"], "draft": ["draft_model:small", "draft_model:small:max_depth=3"]},
    "combination": {"greedy": ["prompt_lookup+recycling", "suffix+recycling"]},
    "auto": {"greedy": ["suffix+recycling", "auto:suffix+recycling:table=none", "auto"]},
    "medusa": {
        "trained": MEDUSA,
        "trained-32": [f"{WIDE['medusa']}, 32 guesses"],
        "medusa-60": [f"{WIDEST}, 60 guesses"],
        "trained-first": MEDUSA,
    },
    "eagle": {
        "eagle": ["eagle", "suffix+eagle:max_depth=3"],
        "trained": EAGLE,
        "trained-32": [f"{WIDE['eagle']}, 32 guesses"],
        "trained-first": EAGLE,
    },
}


def measure(prompts: str) -> None:
    """Run the benchmarks whose documents are missing."""
    STORE.mkdir(exist_ok=True)
    defeating = STORE / DEFEATING
    if not defeating.exists():
        text = subprocess.run([sys.executable, Path(__file__).parent / "defeating_prompts.py"], capture_output=True, text=True, check=True)
        defeating.write_text(text.stdout, "utf-8")
    for name, options in RUNS.items():
        out = STORE / f"{name}.json"
        if not out.exists():
            source = str(defeating) if name.startswith("defeating") else prompts
            print(command(name), flush=True)  # noqa: T201
            subprocess.run([sys.executable, "-m", "outpace", "bench", "--prompts", source, *options, "--json", out], check=True)
    if not (STORE / "drafting.json").exists():
        subprocess.run([sys.executable, Path(__file__).parent / "drafting_cost.py", STORE / "drafting.json"], check=True)


def command(name: str) -> str:
    """The shell command that creates a document."""
    source = DEFEATING if name.startswith("defeating") else "question_even.jsonl"
    return " ".join(
        ["outpace bench --prompts", source, *map(shlex.quote, (RUNS | BY_HAND)[EARLIER.get(name, name)]), "--json", f"{name}.json"]
    )


def load(name: str) -> dict[str, Any]:
    """Load a document and add its rows as drafter -> category -> row."""
    document = json.loads((STORE / f"{name}.json").read_text("utf-8"))
    rows: dict[str, dict[str, Any]] = {}
    for row in document["results"]:
        rows.setdefault(row["drafter"], {})[row["category"]] = row
    return {**document, "rows": rows}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def grid(document: dict[str, Any], drafters: list[str], cell: Any) -> str:
    """A table of drafters by category; `cell(row)` formats a cell."""
    categories = list(document["rows"]["none"])
    head = ["drafter", *(CATEGORIES.get(category, category) for category in categories)]
    return table(head, [[f"`{name}`", *(cell(document["rows"][name][category]) for category in categories)] for name in drafters])


def speed(row: dict[str, Any]) -> str:
    """Speedup, with tokens/s in parentheses."""
    return f"{row['speedup']:.2f} ({row['tokens_per_second']:.0f})"


def length(row: dict[str, Any]) -> str:
    """Tokens per step."""
    return f"{row['tokens_per_step']:.2f}"


def identical(row: dict[str, Any]) -> str:
    """Number of answers identical to plain decoding, out of all."""
    return f"{row['num_identical']}/{row['num_prompts']}"


def section(title: str, name: str, note: str, with_speed: bool = True) -> list[str]:
    """One document as tables: speed, tokens per step, identical answers."""
    if not (STORE / f"{name}.json").exists():
        return []
    document = load(name)
    settings, drafters = document["settings"], list(document["rows"])
    together = f", {settings['concurrency']} at once" if settings.get("concurrency", 1) > 1 else ""
    note += elsewhere(document)
    about = f"{settings['num_prompts']} prompts{together}, temperature {settings['temperature']:g}, {settings['max_tokens']} tokens. {note}"
    return [
        f"## {title}\n\n```\n{command(name)}\n```\n\n{about}",
        *(["Speedup over plain decoding (tokens/s):", grid(document, drafters, speed)] if with_speed else []),
        "Tokens per step:",
        grid(document, [drafter for drafter in drafters if drafter != "none"], length),
        "Answers identical to plain decoding: "
        + ", ".join(f"`{drafter}` {identical(rows['all'])}" for drafter, rows in document["rows"].items() if drafter != "none")
        + ".",
    ]


def elsewhere(document: dict[str, Any]) -> str:
    """A note on the machine of a document, if it differs from that of most documents."""
    machine = document["machine"]
    if machine["cpu"] == load("greedy")["machine"]["cpu"]:
        return ""
    cost = ", ".join(f"{entry['num_tokens']} tokens {entry['milliseconds']:.1f} ms" for entry in document["verify_cost"])
    return f" Another machine: {machine['cores']} cores of {machine['cpu']}; a forward pass of {cost}."


def spread(times: dict[str, float], unit: float = 1.0, digits: int = 0) -> str:
    """Median / 95th percentile."""
    return f"{times['median'] / unit:.{digits}f} / {times['p95'] / unit:.{digits}f}"


def under_load() -> list[str]:
    """The section on the server with many clients at once; empty if it has not been measured."""
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
    head = ["clients", "drafter", "requests", "errors", "lost", "mixed up", "repeated", "tokens/s", "gain"]
    return [
        f"## Server under load\n\n```\n{command}\n```\n\nClients send their next prompt as soon as they have their answer, for {times} s "
        f"per level and drafter, with the drafters taking turns; {settings['num_prompts']} prompts, temperature "
        f"{settings['temperature']:g}, at most {settings['max_tokens']} tokens, 16 requests at a time, clients in the server's "
        f"process. Measured on {document['machine']['cores']} cores of {document['machine']['cpu']}.",
        "An answer is mixed up if it differs from the answer that a single client got for the same prompt and seed before. Drafters start "
        "each turn with an empty answer cache; a prompt is repeated if it was sent before in the same turn. "
        f"{100 * cached:.0f}% of the prompt tokens came from the prefix cache. Answers to the single client identical to plain decoding: "
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
        "Times are median / 95th percentile as seen by the clients, including waiting; the time per token excludes the first token.",
    ]


def drafting() -> list[str]:
    """The section on the cost of drafting by length of the context; empty if it has not been measured."""
    if not (STORE / "drafting.json").exists():
        return []
    document = json.loads((STORE / "drafting.json").read_text("utf-8"))
    lengths = list(dict.fromkeys(cost["context"] for cost in document["costs"]))
    cells: dict[str, dict[int, str]] = {}
    for cost in document["costs"]:
        cells.setdefault(cost["drafter"], {})[cost["context"]] = f"{cost['propose_us_per_guess']:.0f} ({cost['propose_us']:.0f})"
    return [
        "## Cost of drafting\n\n```\npython dev/measure/drafting_cost.py drafting.json\n```\n\n"
        f"Microseconds per draft token, and in parentheses per proposal of up to {document['num_nodes']} draft tokens, by length of the "
        "context in tokens; no model runs.",
        table(["context", *(f"{length:,}" for length in lengths)], [[f"`{name}`", *row.values()] for name, row in cells.items()]),
    ]


OLDER_TABLE = "The table of `recycling` was built from 389,327 rows in this run; it is now built from 994,986 rows, see the next section."


LATER_HEADS = (
    "The table is built from a million tokens of the model's own answers; the heads were trained on these, then on translations, questions "
    "and passages."
)
FIRST_HEADS = "The same with heads trained on the million tokens alone, half of them mathematics; on a faster machine."
HALF_SEEN = "In this run `eagle` saw only the end of each prompt, because plain decoding had left the rest in the prefix cache."
WHOLE_PROMPT = "The current behavior: the part of the prompt that plain decoding left in the prefix cache is run again for the head."
MORE_DRAFT_TOKENS = "For machines on which further tokens of a forward pass are cheap; on this one they are not."
BLANKS = "Trained mask tokens compared with a word in their place."
DISTILLED = "Two of the model's thirty layers, trained as described on [its page](drafters/draft_model.md#distil-your-own)."


def page() -> str:
    """The text of docs/results.md."""
    document = load("greedy")
    machine, cost = document["machine"], document["verify_cost"]
    parts = [
        "# Results\n\nWritten by `python dev/measure/results.py` from the documents in `docs/results/`; "
        "`make results PROMPTS=question_even.jsonl` measures the missing ones. "
        "The prompts are the even questions of Spec-Bench, 8 of each category.",
        f"{document['model']} {document['settings']['precision']}, {machine['cores']} cores of {machine['cpu']}, OpenVINO "
        f"{machine['openvino']}. Drafters are interleaved prompt by prompt; times cover decoding only. The machine has 15% noise, so only "
        "the ratios are reliable.",
        table(
            ["tokens of a forward pass", *(str(entry["num_tokens"]) for entry in cost)],
            [["ms", *(f"{entry['milliseconds']:.1f}" for entry in cost)]],
        ),
        *section("Greedy", "greedy", "`blind` shows the cost of drafting without any gain. " + OLDER_TABLE),
        *section("Trained heads", "trained", f"{LATER_HEADS} {HALF_SEEN}"),
        *section("The feature-level head with the whole prompt", "eagle", WHOLE_PROMPT),
        *section("Trained heads with more draft tokens", "trained-32", f"{MORE_DRAFT_TOKENS} {HALF_SEEN}"),
        *section("Medusa heads with 60 draft tokens", "medusa-60", "Close to the maximum of a step."),
        *section("Mask tokens", "blanks", BLANKS),
        *section("A distilled draft model", "draft", DISTILLED),
        *section("Earlier trained heads", "trained-first", f"{FIRST_HEADS} {HALF_SEEN}"),
        *section("Sampled", "sampled", "The same seed gives the same text. No speeds, because other programs ran on the machine.", False),
        *section("Eight requests at once", "greedy-8", "Seconds of the whole group, with the prompts in the prefix cache."),
        *section("Prompts that defeat drafting", "defeating", "Random words, random codes, a different language in each line."),
        *section("The same, eight at once", "defeating-8", "Medians of five repeats; in the first one `auto` learns that drafting loses."),
        *drafting(),
        *under_load(),
    ]
    return "\n\n".join(parts) + "\n"


HALF_SEEN_IN = {"trained", "trained-32", "trained-first"}
IN_README = ["none", "blind", "prompt_lookup", "prompt_lookup+recycling", "auto:suffix+recycling:table=none", "auto"]


def readme_figures() -> str:
    """The table of the README, with the marks around it."""
    return "\n\n".join(["<!-- figures -->", grid(load("greedy"), IN_README, speed), "<!-- end of figures -->"])


def figures(name: str) -> str:
    """The table of a drafter's page, with the marks around it."""
    about = "48 Spec-Bench prompts, 128 tokens, greedy ([all results](../results.md)): speedup over plain (tokens/s), then tokens per step."
    parts = []
    for name_of_document, rows in PAGES[name].items():
        document = load(name_of_document)
        which = " " + FIRST_HEADS if name_of_document in EARLIER else ""
        which += " " + HALF_SEEN if name == "eagle" and name_of_document in HALF_SEEN_IN else ""
        parts += [about + which + elsewhere(document), grid(document, ["none", *rows], speed), grid(document, rows, length)]
    return "\n\n".join(["<!-- figures -->", *parts, "<!-- end of figures -->"])


def pages() -> dict[Path, str]:
    """The current text of every page with tables."""
    marks = re.compile(r"<!-- figures -->(.*<!-- end of figures -->)?", re.DOTALL)
    found = {DOCS / "results.md": page()}
    tables = {DOCS.parent / "README.md": readme_figures()} | {DOCS / "drafters" / f"{name}.md": figures(name) for name in PAGES}
    for path, text in tables.items():
        found[path] = marks.sub(lambda _, text=text: text, path.read_text("utf-8"), count=1)
    return found


def main() -> None:
    """Measure if requested, then write the pages."""
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2])
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
