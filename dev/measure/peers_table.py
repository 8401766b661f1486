"""The README's table of outpace beside llama.cpp, and docs/results/peers/README.md, from the documents of `outpace bench --peers` there.

usage: python dev/measure/peers_table.py                         writes both; a test checks that they match the documents
       python dev/measure/peers_table.py measure [MODEL …|all]   measures the models without a document, or these anew

Measure on a machine that does nothing else; `make peers` installs the other engines. A document that was measured by hand counts, too: its
name is the model's.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from outpace.bench.peers import PEERS
from outpace.bench.peers.environment import is_installed
from outpace.bench.peers.side import parse_peers

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "peers"
PLACE = re.compile(r"(<!-- peers -->\n).*?(<!-- end of peers -->)", re.DOTALL)
LLAMA = ("llama.cpp", "llama-server")  # a package for any processor, and the program built on the machine itself: the faster one counts
OURS, AUTO = "none", "auto"
DRAFT_MODEL = re.compile(r"^auto:.*?\bdraft_model:([^:+]+)")
HEAD = ["model, prompts", "llama.cpp, plain", "llama.cpp, its best drafter", "outpace, plain", "outpace, `auto`"]
WITH_DRAFT_MODEL = "outpace, `auto` with a draft model"
RUNS = {  # model -> options of outpace bench; a row of the table each, in this order; `with_peers` says what the names in capitals mean
    "coder-0.5b": "--prompts builtin --limit 12 --max-tokens 64 --drafters auto --peers LLAMA",
    "coder-1.5b": "--prompts builtin:code --limit 24 --max-tokens 64 --drafters auto --peers BEST",
    "tiny": "--prompts builtin --limit 12 --max-tokens 64 --drafters auto --peers INSTALLED",
}
SIDES = {  # name in RUNS -> peers, with the program llama-server and without it
    "LLAMA": ("llama.cpp:plain,llama-server", "llama.cpp"),
    "BEST": (  # its other drafters lose: docs/results/peers
        "llama.cpp:plain,llama-server:ngram-simple,llama-server:ngram-mod",
        "llama.cpp:plain,llama.cpp:ngram-simple,llama.cpp:ngram-mod",
    ),
}


def measured() -> dict[str, dict[str, Any]]:
    """model -> its document, for the models that have one."""
    models = dict.fromkeys([*RUNS, *sorted(path.stem for path in STORE.glob("*.json"))])
    paths = {model: STORE / f"{model}.json" for model in models}
    return {model: json.loads(path.read_text("utf-8")) for model, path in paths.items() if path.exists()}


def command(model: str, document: dict[str, Any]) -> str:
    """The command that measured a document, without its --json."""
    settings = document["settings"]
    drafters = dict.fromkeys(row["drafter"] for row in document["results"] if row["drafter"] != OURS)
    options = {
        "--model": model,
        "--prompts": Path(settings["prompts"]).name,
        "--limit": str(settings["limit"] or ""),
        "--max-tokens": str(settings["max_tokens"]),
        "--drafters": ",".join(drafters),
        "--peers": _named(dict.fromkeys(row["peer"] for row in document["peers"])),
    }
    return f"outpace bench {' '.join(f'{name} {shlex.quote(value)}' for name, value in options.items() if value)}"


def _named(ways: dict[str, None]) -> str:
    """The shortest list for --peers that means these ways."""
    found = []
    for peer in dict.fromkeys(way.partition(":")[0] for way in ways):
        all_ways = {spec.text for spec in parse_peers(peer)}
        more = [way for way in ways if way.partition(":")[0] == peer and way not in all_ways]
        found += [peer, *more] if all_ways <= ways.keys() else [way for way in ways if way.partition(":")[0] == peer]
    return ",".join(found)


def rows_of(document: dict[str, Any], category: str = "all") -> dict[str, dict[str, Any]]:
    """The rows of a category, by the name of the side."""
    rows = [*document["results"], *document["peers"]]
    return {row.get("drafter") or row["peer"]: row for row in rows if row["category"] == category}


def title(side: str) -> str:
    """A side in plain words."""
    if side.partition(":")[0] not in PEERS:
        if name := draft_model_of(side):
            return f"outpace, `auto` with the draft model `{name}`"
        return "outpace, plain" if side == OURS else f"outpace, `{side}`"
    peer, way, *rest = side.split(":", 2)
    if way == "draft":
        return f"{peer}, draft model `{rest[0]}`"
    return f"{peer}, plain" if way == "plain" else f"{peer}, `{':'.join([way, *rest])}`"


def draft_model_of(side: str) -> str:
    """The draft model inside `auto`; empty if the side is something else."""
    found = DRAFT_MODEL.match(side)
    return found[1] if found else ""


def draft_model_side(document: dict[str, Any]) -> str | None:
    """The side that is `auto` with a draft model, if the document has one."""
    return next(filter(draft_model_of, rows_of(document)), None)


def cells(model: str, document: dict[str, Any], has_draft_models: bool) -> list[str]:
    """A row of the table: tokens/s of each side, in brackets that number divided by plain llama.cpp's, and the seconds of an answer."""
    rows = rows_of(document)
    first = f"`{model}`, {rows[OURS]['num_prompts']} of `{document['settings']['prompts']}`"
    plain, best = fastest_llama(rows, ":plain"), fastest_llama(rows)
    found = [_cell(rows[name], rows[plain]) for name in (plain, best, OURS, AUTO)]
    found[1] += "" if best == plain else f" `{best.partition(':')[2]}`"
    if has_draft_models:
        side = draft_model_side(document)
        found.append("–" if side is None else f"{_cell(rows[side], rows[plain])} `{draft_model_of(side)}`")
    return [first, *found]


def fastest_llama(rows: dict[str, dict[str, Any]], way: str = "") -> str:
    """The side of llama.cpp with the most tokens/s, of all or of one way; empty if there is none."""
    sides = [name for name in rows if name.startswith(tuple(f"{peer}:" for peer in LLAMA)) and name.endswith(way)]
    return max(sides, key=lambda name: rows[name]["tokens_per_second"] or 0.0, default="")


def _cell(row: dict[str, Any], plain: dict[str, Any]) -> str:
    if row.get("error"):
        return "failed"
    ratio = "" if plain.get("error") else f" ({row['tokens_per_second'] / plain['tokens_per_second']:.2f})"
    whole = f"{row['total_seconds'] / row['num_prompts']:.1f} s"
    return f"{row['tokens_per_second']:.0f}{ratio}, {whole}{', too noisy to trust' if row.get('noise') else ''}"


def by_kind(model: str, document: dict[str, Any]) -> list[str]:
    """What `auto` gains over plain decoding of outpace, by kind of text, with and without a draft model; then the identical answers."""
    kinds = dict.fromkeys(row["category"] for row in document["results"] if row["category"] not in ("all", "looping"))
    lines = []
    for side in (AUTO, draft_model_side(document)):
        if side is not None:
            gains = {kind: rows_of(document, kind)[side]["speedup"] for kind in kinds}
            text = ", ".join(f"{kind} {gain:.2f}" for kind, gain in sorted(gains.items(), key=lambda item: -item[1]))
            row = rows_of(document)[side]
            who = f"`{model}`" if side == AUTO else f"`{model}` with the draft model `{draft_model_of(side)}`"
            lines.append(f"- {who}: {text}. Identical answers: {row['num_identical']} of {row['num_prompts']}.")
    return [*lines[:-1], f"{lines[-1]} `{command(model, document)}`"]


def details(model: str, document: dict[str, Any]) -> str:
    """A section: every side, by kind of text."""
    kinds = dict.fromkeys(row["category"] for row in document["results"])
    settings = document["settings"]
    about = (
        f"{document['model']} in {settings['precision']}, {machine(document)}, {settings['num_prompts']} prompts, temperature "
        f"{settings['temperature']:g}, {settings['max_tokens']} tokens each."
    )
    rows = [["side", *kinds, "identical"], ["---"] * (len(kinds) + 2)]
    for side, total in rows_of(document).items():
        found = [rows_of(document, kind).get(side, {}).get("tokens_per_second") for kind in kinds]
        same = "failed" if total.get("error") else f"{total['num_identical']}/{total['num_prompts']}"
        rows.append([title(side), *("" if speed is None else f"{speed:.1f}" for speed in found), same])
    versions = ", ".join(dict.fromkeys(str(facts["version"]) for facts in document["about_peers"].values() if "version" in facts))
    errors = [f"\n\n{title(row['peer'])} failed: {row['error']}" for row in document["peers"] if row["category"] == "all" and row["error"]]
    parts = f"```\n{command(model, document)}\n```\n\n{about} Other engines: {versions}.\n\n{as_table(rows)}{''.join(errors)}"
    return f"## {model}\n\n{parts}"


def machine(document: dict[str, Any]) -> str:
    """The machine of a document in words."""
    found = document["machine"]
    return f"{found['cores']} cores of {found['cpu']}, OpenVINO {found['openvino']}"


def as_table(rows: list[list[str]]) -> str:
    """A Markdown table, the second row being the rule."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def pages() -> dict[Path, str]:
    """The written pages -> their text."""
    about = (
        "# Beside other engines\n\nGenerated by `make tables`. Tokens per second of decoding, by kind of text; "
        "all sides took turns, prompt by prompt. *Identical*: answers that equal the same engine's plain answer. "
        "[What is compared, and how](../../measuring/peers.md)."
    )
    sections = [details(model, document) for model, document in measured().items()]
    missing = [model for model in RUNS if model not in measured()]
    more = [f"Not measured yet: {', '.join(f'`{model}`' for model in missing)}."] * bool(missing)
    return {ROOT / "README.md": page(), STORE / "README.md": "\n\n".join([about, *sections, *more]) + "\n"}


def page() -> str:
    """The README with the table of today's documents that have plain llama.cpp."""
    documents = {model: document for model, document in measured().items() if fastest_llama(rows_of(document), ":plain")}
    has_draft_models = any(draft_model_side(document) for document in documents.values())
    head = [*HEAD, WITH_DRAFT_MODEL] if has_draft_models else HEAD
    table = as_table([head, ["---"] * len(head), *(cells(model, document, has_draft_models) for model, document in documents.items())])
    where = "; ".join(dict.fromkeys(machine(document) for document in documents.values()))
    lines = "\n".join(line for model, document in documents.items() for line in by_kind(model, document))
    gains = f"What `auto` gains over plain decoding of outpace depends on the kind of text:\n\n{lines}"
    text = f"Measured on {where}:\n\n{table}\n\n{gains}"
    return PLACE.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", (ROOT / "README.md").read_text("utf-8"))


def measure(models: list[str]) -> None:
    """Run `outpace bench` for each of these models; without a name for those that have no document."""
    for model in [*RUNS] if models == ["all"] else models or [model for model in RUNS if model not in measured()]:
        options = f"--model {model} {with_peers(RUNS[model])}"
        print(f"outpace bench {options}", flush=True)  # noqa: T201
        out = str(STORE / f"{model}.json")
        subprocess.run([sys.executable, "-m", "outpace", "bench", *shlex.split(options), "--json", out], check=True)


def with_peers(options: str) -> str:
    """Options of RUNS with the peers that are there. INSTALLED: all of them, and of two llama.cpp the program's drafters only."""
    installed = [name for name in PEERS if is_installed(name)]
    has_program = "llama-server" in installed
    every = [f"{name}:plain" if has_program and name == "llama.cpp" else name for name in installed]
    for name, (with_program, without) in SIDES.items():
        options = options.replace(name, with_program if has_program else without)
    return options.replace("INSTALLED", ",".join(every))


def main() -> None:
    """Measure, or write the pages."""
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2:])
        return
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
