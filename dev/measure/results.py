"""Measure all drafters and write the tables of the documentation.

usage: python dev/measure/results.py                           writes docs/results/README.md and the tables of other pages
       python dev/measure/results.py measure PROMPTS.jsonl     runs `outpace bench` for the missing documents of RUNS

A test checks that the written pages match the documents.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from results_load import STORE, drafting, table, under_load

DOCS = Path(__file__).parents[2] / "docs"
HISTORY = Path(__file__).parents[1] / "history"
IN_TRAINED = {"trained", "trained-32", "eagle", "medusa-60", "blanks", "draft"}  # documents in the subfolder `trained`
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
WIDEST = "medusa:threshold=0.001"  # with 60
DEFEATING = "defeating.jsonl"  # made by dev/measure/defeating_prompts.py
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
    "defeating-8": [*shlex.split("--max-tokens 128 --drafters auto --temperature 1 --seed 0 --repeats 5 --concurrency 8")],
}
EARLIER = {"trained-first": "trained"}  # documents in HISTORY -> the run with the same options
BY_HAND = {  # documents of a draft model that is not shipped; docs/drafters/draft_model.md says how to train it -> options of outpace bench
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
        "trained-32": [f"{WIDE['medusa']}, 32 draft tokens"],
        "medusa-60": [f"{WIDEST}, 60 draft tokens"],
    },
    "eagle": {
        "eagle": ["eagle", "suffix+eagle:max_depth=3"],
        "trained": EAGLE,
        "trained-32": [f"{WIDE['eagle']}, 32 draft tokens"],
    },
}


def measure(prompts: str) -> None:
    """Run what is missing, each document whole or not at all."""
    (STORE / "trained").mkdir(parents=True, exist_ok=True)
    defeating = STORE / DEFEATING
    if not defeating.exists():
        text = subprocess.run([sys.executable, Path(__file__).parent / "defeating_prompts.py"], capture_output=True, text=True, check=True)
        defeating.write_text(text.stdout, "utf-8")
    for name, options in RUNS.items():
        out = path_of(name)
        if not out.exists():
            source = str(defeating) if name.startswith("defeating") else prompts
            print(command(name), flush=True)  # noqa: T201
            subprocess.run([sys.executable, "-m", "outpace", "bench", "--prompts", source, *options, "--json", out], check=True)
    if not (STORE / "drafting.json").exists():
        subprocess.run([sys.executable, Path(__file__).parent / "drafters" / "drafting_cost.py", STORE / "drafting.json"], check=True)


def path_of(name: str) -> Path:
    """The file of a document."""
    if name in EARLIER:
        return HISTORY / f"{name}.json"
    return STORE / ("trained" if name in IN_TRAINED else "") / f"{name}.json"


def command(name: str) -> str:
    """The command that produces a document, as typed in a shell."""
    source = DEFEATING if name.startswith("defeating") else "question_even.jsonl"
    return " ".join(
        ["outpace bench --prompts", source, *map(shlex.quote, (RUNS | BY_HAND)[EARLIER.get(name, name)]), "--json", f"{name}.json"]
    )


def load(name: str) -> dict[str, Any]:
    """A document with its results as drafter -> category -> row."""
    document = json.loads(path_of(name).read_text("utf-8"))
    rows: dict[str, dict[str, Any]] = {}
    for row in document["results"]:
        drafter = re.sub(r", (\d+) guesses$", r", \1 draft tokens", row["drafter"])  # what documents called them before
        rows.setdefault(drafter, {})[row["category"]] = row
    return {**document, "rows": rows}


def grid(document: dict[str, Any], drafters: list[str], cell: Any) -> str:
    """Drafters by category; `cell(row)` writes a field."""
    categories = list(document["rows"]["none"])
    head = ["drafter", *(CATEGORIES.get(category, category) for category in categories)]
    return table(head, [[f"`{name}`", *(cell(document["rows"][name][category]) for category in categories)] for name in drafters])


def speed(row: dict[str, Any]) -> str:
    """Speedup, and tokens/s beside it."""
    return f"{row['speedup']:.2f} ({row['tokens_per_second']:.0f})"


def length(row: dict[str, Any]) -> str:
    """Tokens per step."""
    return f"{row['tokens_per_step']:.2f}"


def identical(row: dict[str, Any]) -> str:
    """Answers identical to plain decoding, of all."""
    return f"{row['num_identical']}/{row['num_prompts']}"


def section(title: str, name: str, note: str, with_speed: bool = True) -> list[str]:
    """One document as tables: speedup, tokens per step, identical answers."""
    if not path_of(name).exists():
        return []
    document = load(name)
    settings, drafters = document["settings"], list(document["rows"])
    together = f", {settings['concurrency']} concurrent" if settings.get("concurrency", 1) > 1 else ""
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
    """The machine of a document, if it is another one than that of most documents."""
    machine = document["machine"]
    if machine["cpu"] == load("greedy")["machine"]["cpu"]:
        return ""
    cost = ", ".join(f"{entry['milliseconds']:.1f} ms for {entry['num_tokens']}" for entry in document["verify_cost"])
    return f" Another machine: {machine['cores']} cores of {machine['cpu']}; a forward pass takes {cost} tokens."


OLDER_TABLE = (
    "This run used a `recycling` table counted from 389,327 rows; the one shipped now was counted from 994,986 (see the next section)."
)
LATER_HEADS = (
    "The `recycling` table comes from a million tokens of the model's own answers; the heads were trained further on translations, "
    "questions and passages."
)
FIRST_HEADS = "Earlier heads, trained on the first million tokens only (half of them mathematics), on a faster machine."
HALF_SEEN = "In this run `eagle` saw only the end of each prompt, because plain decoding had left the rest in the cache."
WHOLE_PROMPT = "Current behaviour: prompt tokens that plain decoding left in the cache are run again for the head."
MORE_TOKENS = "Meant for machines where additional tokens in a forward pass are cheap; on this machine they are not."
BLANKS = "Trained mask tokens compared with an ordinary word in their place."
DISTILLED = "Two of the model's thirty layers, trained as described on [its page](../drafters/draft_model.md#distil-your-own)."


def page() -> str:
    """docs/results/README.md."""
    document = load("greedy")
    machine, cost = document["machine"], document["verify_cost"]
    parts = [
        "# Results\n\nGenerated by `make tables` from the JSON documents in this folder; "
        "`make results PROMPTS=question_even.jsonl` measures the missing ones. "
        "The prompts are the even-numbered questions of Spec-Bench, 8 per category. The [glossary](../glossary.md) explains the terms.",
        f"{document['model']} {document['settings']['precision']}, {machine['cores']} cores of {machine['cpu']}, OpenVINO "
        f"{machine['openvino']}. Drafters are interleaved prompt by prompt; only decoding is timed. Timings on this machine vary by "
        "up to 15%: the ratios are more reliable than the tokens/s.",
        "Not here: [outpace beside other engines](peers/README.md), and [older results](../../dev/history/README.md).",
        table(
            ["tokens in a forward pass", *(str(entry["num_tokens"]) for entry in cost)],
            [["ms", *(f"{entry['milliseconds']:.1f}" for entry in cost)]],
        ),
        *section("Greedy", "greedy", "`blind` shows the cost of drafting when nothing is accepted. " + OLDER_TABLE),
        *section("Trained heads", "trained", f"{LATER_HEADS} {HALF_SEEN}"),
        *section("EAGLE head with the whole prompt", "eagle", WHOLE_PROMPT),
        *section("Trained heads with 32 draft tokens", "trained-32", f"{MORE_TOKENS} {HALF_SEEN}"),
        *section("Medusa heads with 60 draft tokens", "medusa-60", "Close to the maximum of 64 per step."),
        *section("Mask tokens", "blanks", BLANKS),
        *section("A distilled draft model", "draft", DISTILLED),
        *section("Sampled", "sampled", "The same seed gives the same text. The machine was not idle, so no speeds are given.", False),
        *section("Eight concurrent requests", "greedy-8", "Timed per group of eight, with the prompts in the prefix cache."),
        *section("Unpredictable prompts", "defeating", "Random words, random codes, a different language on each line."),
        *section(
            "Unpredictable prompts, eight concurrent requests",
            "defeating-8",
            "Medians of five repeats: during the first one `auto` learns that drafting does not pay off.",
        ),
        *drafting(),
        *under_load(),
    ]
    return "\n\n".join(parts) + "\n"


def history() -> str:
    """dev/history/README.md."""
    about = "# Older results\n\nMeasurements of what is no longer shipped. Generated by `make tables`."
    return "\n\n".join([about, *section("Earlier trained heads", "trained-first", f"{FIRST_HEADS} {HALF_SEEN}")]) + "\n"


HALF_SEEN_IN = {"trained", "trained-32"}


def figures(name: str) -> str:
    """The tables of a drafter's page, between their markers."""
    about = (
        "48 Spec-Bench prompts, 128 tokens, greedy ([all results](../results/README.md)): speedup over plain decoding (tokens/s), "
        "then tokens per step."
    )
    parts = []
    for name_of_document, rows in PAGES[name].items():
        document = load(name_of_document)
        which = " " + HALF_SEEN if name == "eagle" and name_of_document in HALF_SEEN_IN else ""
        parts += [about + which + elsewhere(document), grid(document, ["none", *rows], speed), grid(document, rows, length)]
    return "\n\n".join(["<!-- figures -->", *parts, "<!-- end of figures -->"])


CHOICE = ["none", "prompt_lookup", "suffix", "recycling", "lookahead", "suffix+recycling", "auto"]
TRAINED_CHOICE = ["none", "medusa", "eagle", "suffix+recycling", "auto", "auto:suffix+recycling+medusa"]


def choosing() -> str:
    """The tables of the page on choosing a drafter, between their markers."""
    about = "Speedup over plain decoding (tokens/s) of `tiny` in 8 bits, 48 prompts of Spec-Bench, temperature 0, every answer identical"
    new, old = (f"{load(name)['machine']['cores']} cores of {load(name)['machine']['cpu']}" for name in ("greedy", "trained"))
    rag = "RAG: questions about passages that are in the prompt."
    older = f"on an older machine ({old}, no VNNI, the instructions for 8-bit numbers). "
    older += "There one more token in a run of the model costs six times as much."
    return "\n\n".join(
        [
            "<!-- figures -->",
            f"{about}, {new} ([all results](../results/README.md)). {rag}",
            grid(load("greedy"), CHOICE, speed),
            f"Trained heads, beside drafters without training, {older}",
            grid(load("trained"), TRAINED_CHOICE, speed),
            "<!-- end of figures -->",
        ]
    )


def pages() -> dict[Path, str]:
    """Every page with generated tables -> its current text."""
    marks = re.compile(r"<!-- figures -->(.*<!-- end of figures -->)?", re.DOTALL)
    found = {STORE / "README.md": page(), HISTORY / "README.md": history()}
    tables = {DOCS / "drafters" / f"{name}.md": figures(name) for name in PAGES}
    tables[DOCS / "learn" / "choosing-a-drafter.md"] = choosing()
    for path, text in tables.items():
        found[path] = marks.sub(lambda _, text=text: text, path.read_text("utf-8"), count=1)
    return found


def main() -> None:
    """Measure, or write the pages."""
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2])
        return
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
