"""The tables of the README, made from documents of `outpace bench --peers`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRAFT = "auto:suffix+recycling+draft_model:coder-0.5b"
SIDES = {"none": 20.0, "auto": 26.0, "llama.cpp:plain": 25.0, "llama.cpp:ngram-mod": 27.5}


def row(side: str, category: str, speed: float) -> dict[str, object]:
    name = "peer" if side.startswith("llama") else "drafter"
    common = {"category": category, "num_prompts": 2, "num_identical": 2, "noise": None, "error": None}
    return {name: side, **common, "tokens_per_second": speed, "speedup": speed / 20.0, "total_seconds": 60 / (speed or 1.0)}


def document(sides: dict[str, float], **settings: object) -> dict[str, object]:
    rows = [row(side, category, speed) for side, speed in sides.items() for category in ("all", "chat", "edit")]
    return {
        "model": "A Model",
        "machine": {"cores": 2, "cpu": "a CPU", "openvino": "1"},
        "settings": {
            "precision": "int4",
            "num_prompts": 2,
            "temperature": 0.0,
            "max_tokens": 8,
            "prompts": "builtin",
            "limit": 2,
            **settings,
        },
        "results": [each for each in rows if "drafter" in each],
        "peers": [each for each in rows if "peer" in each],
        "about_peers": {"llama.cpp:plain": {"version": "llama 1"}},
    }


@pytest.fixture
def tables(monkeypatch, tmp_path):
    """The script, with documents in a folder of their own."""
    monkeypatch.syspath_prepend(ROOT / "dev" / "measure")
    sys.modules.pop("peers_table", None)
    import peers_table

    monkeypatch.setattr(peers_table, "STORE", tmp_path)
    return peers_table


def test_a_document_with_a_draft_model_adds_a_column(tables, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(document(SIDES)), "utf-8")
    assert "with a draft model" not in tables.page()
    (tmp_path / "coder-1.5b.json").write_text(json.dumps(document({**SIDES, DRAFT: 30.0})), "utf-8")
    lines = tables.page().splitlines()
    (head,) = [line for line in lines if line.startswith("| model, prompts |")]
    assert head.endswith("| outpace, plain | outpace, `auto` | outpace, `auto` with a draft model |")
    (big,) = [line for line in lines if line.startswith("| `coder-1.5b`")]
    cells = "25 (1.00), 1.2 s | 28 (1.10), 1.1 s `ngram-mod` | 20 (0.80), 1.5 s | 26 (1.04), 1.2 s | 30 (1.20), 1.0 s `coder-0.5b`"
    assert big == f"| `coder-1.5b`, 2 of `builtin` | {cells} |"
    (small,) = [line for line in lines if line.startswith("| `tiny`")]
    assert small.endswith("| 26 (1.04), 1.2 s | – |")
    assert "- `coder-1.5b` with the draft model `coder-0.5b`: chat 1.50, edit 1.50. Identical answers: 2 of 2." in "\n".join(lines)
    assert "Measured on 2 cores of a CPU, OpenVINO 1:" in lines


def test_the_faster_llama_cpp_counts(tables, tmp_path):
    (tmp_path / "tiny.json").write_text(
        json.dumps(document({**SIDES, "llama-server:plain": 40.0, "llama-server:ngram-mod": 30.0})), "utf-8"
    )
    (line,) = [line for line in tables.page().splitlines() if line.startswith("| `tiny`")]
    assert line == "| `tiny`, 2 of `builtin` | 40 (1.00), 0.8 s | 40 (1.00), 0.8 s | 20 (0.50), 1.5 s | 26 (0.65), 1.2 s |"


def test_sides_have_plain_names(tables, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(document({**SIDES, DRAFT: 30.0})), "utf-8")
    text = tables.pages()[tmp_path / "README.md"]
    names = [
        "outpace, plain",
        "outpace, `auto`",
        "outpace, `auto` with the draft model `coder-0.5b`",
        "llama.cpp, plain",
        "llama.cpp, `ngram-mod`",
    ]
    assert [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if "2/2" in line] == names
    assert tables.title("llama.cpp:draft:coder-0.5b:n_max=4") == "llama.cpp, draft model `coder-0.5b:n_max=4`"
    assert tables.title("recycling") == "outpace, `recycling`"


def test_the_command_is_that_of_the_document(tables):
    """With the settings and sides that were measured, not those that would be measured today."""
    found = tables.command("coder-1.5b", document({**SIDES, DRAFT: 30.0}, prompts="/a/folder/my.jsonl", limit=None, max_tokens=128))
    options = "--prompts my.jsonl --max-tokens 128 --drafters auto,auto:suffix+recycling+draft_model:coder-0.5b"
    assert found == f"outpace bench --model coder-1.5b {options} --peers llama.cpp:plain,llama.cpp:ngram-mod"
    ways = dict.fromkeys(["genai:draft:coder-0.5b", *(spec.text for spec in tables.parse_peers("genai")), "vllm:plain"])
    assert tables._named(ways) == "genai,genai:draft:coder-0.5b,vllm:plain"


def test_failed_sides_and_noise_are_named(tables, tmp_path):
    failed = document({**SIDES, "llama.cpp:ngram-cache": 0.0})
    for each in failed["peers"]:
        if each["peer"] == "llama.cpp:ngram-cache":
            each.update(error="no such way", tokens_per_second=0.0)
    for each in failed["results"]:
        each["noise"] = "busy"
    (tmp_path / "tiny.json").write_text(json.dumps(failed), "utf-8")
    assert "| 26 (1.04), 1.2 s, too noisy to trust |" in tables.page()
    text = tables.pages()[tmp_path / "README.md"]
    assert "| llama.cpp, `ngram-cache` | 0.0 | 0.0 | 0.0 | failed |" in text
    assert "llama.cpp, `ngram-cache` failed: no such way" in text
    for each in failed["peers"]:
        each.update(error="not installed", tokens_per_second=0.0)
    (tmp_path / "tiny.json").write_text(json.dumps(failed), "utf-8")
    assert "| `tiny`, 2 of `builtin` | failed | failed | 20, 1.5 s, too noisy to trust | 26, 1.2 s, too noisy to trust |" in tables.page()


def test_one_command_writes_all_tables(monkeypatch):
    """`make tables`, each page once; with `measure` those of the README are measured first, all anew."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("write", ROOT / "dev" / "measure" / "tables" / "write.py")
    write = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write)
    calls = []
    monkeypatch.setattr(write.subprocess, "run", lambda command, check: calls.append([Path(command[1]).name, *command[2:]]))
    write.main([])
    writing = [["results.py"], ["peers_table.py"], ["temperature_tables.py"]]
    assert calls == writing
    assert all((write.MEASURE / script).exists() for script in write.SCRIPTS)
    calls.clear()
    write.main(["measure"])
    assert calls == [["peers_table.py", "measure", "all"], ["temperature_tables.py", "measure", "all"], *writing]
