"""The README's table of outpace beside llama.cpp, and docs/results/peers/README.md, from the documents of `outpace bench --peers` there.

usage: python dev/measure/peers_table.py                     writes both; a test checks that they match the documents
       python dev/measure/peers_table.py measure [MODEL …]   measures the models that have no document yet, or these anew, then writes

Measure on a machine that does nothing else; `make peers` installs llama.cpp.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "peers"
PLACE = re.compile(r"(<!-- peers -->\n).*?(<!-- end of peers -->)", re.DOTALL)
PLAIN = "llama.cpp:plain"
HEAD = ("model, prompts", "llama.cpp, plain", "llama.cpp, its best drafter", "outpace, plain", "outpace, `auto`")
USUAL = "--max-tokens 64 --drafters none,auto --peers llama.cpp"
RUNS = {  # model -> options of outpace bench; a row of the table each, in this order
    "coder-0.5b": f"--prompts builtin --limit 12 {USUAL}",
    "coder-1.5b": f"--prompts builtin:code --limit 6 {USUAL}",
    "tiny": f"--prompts builtin --limit 24 {USUAL}",
}


def path_of(model: str) -> Path:
    """The document of a model."""
    return STORE / f"{model}.json"


def command(model: str) -> str:
    """The command that measures a model, without its --json."""
    return f"outpace bench --model {model} {RUNS[model]}"


def measured() -> dict[str, dict[str, Any]]:
    """model -> its document, for the models that have one."""
    return {model: json.loads(path_of(model).read_text("utf-8")) for model in RUNS if path_of(model).exists()}


def rows_of(document: dict[str, Any], category: str = "all") -> dict[str, dict[str, Any]]:
    """The rows of a category, by the name of the side."""
    rows = [*document["results"], *document["peers"]]
    return {row.get("drafter") or row["peer"]: row for row in rows if row["category"] == category}


def cells(model: str, document: dict[str, Any]) -> list[str]:
    """A row of the table: tokens/s of each side, and in brackets that number divided by plain llama.cpp's."""
    rows = rows_of(document)
    title = f"`{model}`, {rows['none']['num_prompts']} of `{document['settings']['prompts']}`"
    best = max((name for name in rows if name.startswith("llama.cpp:")), key=lambda name: rows[name]["tokens_per_second"] or 0.0)
    way = best.partition(":")[2]
    found = [_cell(rows[name], rows[PLAIN]) for name in (PLAIN, best, "none", "auto")]
    found[1] += "" if best == PLAIN else f" `{way}`"
    return [title, *found]


def _cell(row: dict[str, Any], plain: dict[str, Any]) -> str:
    if row.get("error"):
        return "failed"
    text = f"{row['tokens_per_second']:.0f} ({row['tokens_per_second'] / plain['tokens_per_second']:.2f})"
    return f"{text}, too noisy to trust" if row.get("noise") else text


def by_kind(model: str, document: dict[str, Any]) -> str:
    """A sentence: what `auto` gains over plain decoding of outpace, by kind of text, and how many answers are the same."""
    kinds = dict.fromkeys(row["category"] for row in document["results"] if row["category"] not in ("all", "looping"))
    gains = {kind: rows_of(document, kind)["auto"]["speedup"] for kind in kinds}
    text = ", ".join(f"{kind} {gain:.2f}" for kind, gain in sorted(gains.items(), key=lambda item: -item[1]))
    row = rows_of(document)["auto"]
    return f"- `{model}`: {text}. Identical answers: {row['num_identical']} of {row['num_prompts']}. `{command(model)}`"


def details(model: str, document: dict[str, Any]) -> str:
    """A section: every side, by kind of text."""
    kinds = dict.fromkeys(row["category"] for row in document["results"])
    sides = list(rows_of(document))
    settings, machine = document["settings"], document["machine"]
    about = (
        f"{document['model']} in {settings['precision']}, {machine['cores']} cores of {machine['cpu']}, OpenVINO {machine['openvino']}, "
        f"{settings['num_prompts']} prompts, temperature {settings['temperature']:g}, {settings['max_tokens']} tokens each."
    )
    rows = [["side", *kinds, "identical"], ["---"] * (len(kinds) + 2)]
    for side in sides:
        found = [rows_of(document, kind).get(side, {}).get("tokens_per_second") for kind in kinds]
        total = rows_of(document)[side]
        same = "failed" if total.get("error") else f"{total['num_identical']}/{total['num_prompts']}"
        rows.append([f"`{side}`", *("" if speed is None else f"{speed:.1f}" for speed in found), same])
    versions = ", ".join(dict.fromkeys(str(facts["version"]) for facts in document["about_peers"].values()))
    return f"## {model}\n\n```\n{command(model)}\n```\n\n{about} Other engines: {versions}.\n\n{as_table(rows)}"


def as_table(rows: list[list[str]]) -> str:
    """A Markdown table, the second row being the rule."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def pages() -> dict[Path, str]:
    """The written pages -> their text."""
    about = (
        "# Beside other engines\n\nGenerated by `python dev/measure/peers_table.py`. Tokens per second of decoding, by kind of text; "
        "all sides took turns, prompt by prompt. *Identical*: answers that equal the same engine's plain answer. "
        "[What is compared, and how](../../measuring/peers.md)."
    )
    sections = [details(model, document) for model, document in measured().items()]
    missing = [model for model in RUNS if model not in measured()]
    more = [f"Not measured yet: {', '.join(f'`{model}`' for model in missing)}."] * bool(missing)
    return {ROOT / "README.md": page(), STORE / "README.md": "\n\n".join([about, *sections, *more]) + "\n"}


def page() -> str:
    """The README with the table of today's documents."""
    documents = measured()
    table = as_table([[*HEAD], ["---"] * len(HEAD), *(cells(model, document) for model, document in documents.items())])
    lines = "\n".join(by_kind(model, document) for model, document in documents.items())
    gains = f"What `auto` gains over plain decoding of outpace depends on the kind of text:\n\n{lines}"
    return PLACE.sub(lambda found: f"{found[1]}\n{table}\n\n{gains}\n\n{found[2]}", (ROOT / "README.md").read_text("utf-8"))


def measure(models: list[str]) -> None:
    """Run `outpace bench` for each of these models; without a name for those that have no document."""
    for model in models or [model for model in RUNS if not path_of(model).exists()]:
        print(command(model), flush=True)  # noqa: T201
        options = shlex.split(command(model))[1:]
        subprocess.run([sys.executable, "-m", "outpace", *options, "--json", str(path_of(model))], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2:])
    for path, text in pages().items():
        path.write_text(text, "utf-8")
