"""dev/gpu_bench.py in its shortest form, on the CPU, and the tables of docs/gpu.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "dev"))
from gpu import page, pieces

MACHINE = {"device": "GPU X", "gb_per_second": 1234.5, "torch": "2.13", "transformers": "5.24"}
DOCUMENT = {
    "machine": MACHINE,
    "is_cpu": False,
    "sections": {
        "pass_cost": {
            "result": [
                {
                    "model": "1B, random weights",
                    "context": 512,
                    "sizes": [1, 8, 64],
                    "milliseconds": {"graphs": [1.5, 1.6, 2.0], "graphs, 8 sequences": [1.7, 1.8]},
                    "memory_floor": 1.2,
                }
            ]
        },
        "decoding": {
            "result": {
                "model": "tiny",
                "num_prompts": 12,
                "rows": [
                    {"side": "outpace", "name": "none", "at_once": 1, "tokens_per_second": 300.0, "tokens_per_step": 1.0, "identical": 12},
                    {"side": "outpace", "name": "none", "at_once": 1, "tokens_per_second": 90.0, "identical": 12, "exact_width": 8},
                ],
            }
        },
        "simulation": {
            "result": [
                {
                    "model": "8B",
                    "rows": [{"at_once": 1, "share": None, "draft_tokens": 0, "tokens_per_second": 99.0, "tokens_per_step": 1.0}],
                }
            ]
        },
        "training": {"error": "RuntimeError: no memory"},
        "tests": {"left_out": "12 s left"},
    },
}


def run(tmp_path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OUTPACE_HOME": str(tmp_path)}
    command = [sys.executable, str(ROOT / "dev" / "gpu_bench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=280)


def test_the_shortest_form_on_the_cpu(tmp_path):
    done = run(tmp_path, "--cpu", "--only", "pass_cost,training", "--seconds", "240", "--out", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "out.json").read_text())
    assert document["is_cpu"]
    assert document["machine"]["gb_per_second"] > 0
    (first, second) = document["sections"]["pass_cost"]["result"]
    assert first["model"] == second["model"] == "small, random weights"
    assert all(milliseconds > 0 for column in first["milliseconds"].values() for milliseconds in column)
    assert len(document["sections"]["training"]["result"]["first_token_right"]) == 3
    refused = run(tmp_path, "--page", str(tmp_path / "out.json"))
    assert refused.returncode == 1
    assert "figures of a GPU only" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpu", "--only", "pass_cost,trainings"], "--only knows pass_cost, decoding, tests, simulation, training, not 'trainings'"),
        (["--cpu", "--model", "no/such.gguf"], "there is no no/such.gguf"),
        (["--cpu", "--out", "no/such/gpu.json"], "there is no folder for no/such/gpu.json"),
        ([], "torch finds no CUDA device; --cpu runs small sizes on the CPU"),
    ],
)
def test_what_would_fail_after_minutes_is_told_at_once(arguments, message, monkeypatch, capsys):
    import gpu_bench
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_bench.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        gpu_bench.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"gpu_bench.py: error: {message}"


def test_the_tables():
    text = page.tables(DOCUMENT)
    assert "GPU X, 1234.5 GB/s by a copy, torch 2.13, transformers 5.24." in text
    assert "| 1B, random weights: ms by tokens | 1 | 8 | 64 |\n| --- | --- | --- | --- |\n| graphs | 1.5 | 1.6 | 2.0 |" in text
    assert "| graphs, 8 sequences | 1.7 | 1.8 |  |" in text
    assert "| outpace `none`, exact width 8 | 1 | 90.0 |  | 12 of 12 |" in text
    assert "Simulation: passes are real, the share of right draft tokens is given." in text
    assert "| 1 | plain | 0 | 99.0 | 1.0 |" in text
    assert "training: RuntimeError: no memory\n\ntests: left out, 12 s left\n" in text


def test_a_result_goes_into_the_page(tmp_path):
    path = tmp_path / "gpu.md"
    path.write_text((ROOT / "docs" / "gpu.md").read_text("utf-8"), "utf-8")
    for _ in range(2):
        page.write_page(path, DOCUMENT)
        text = path.read_text("utf-8")
        assert text.startswith("# On a GPU: measured on one GPU X\n")
        assert text.count("1234.5 GB/s") == 1


def test_pieces_make_the_file_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10)
    content = bytes(range(47))
    (tmp_path / "model.gguf").write_bytes(content)
    parts = pieces.split(tmp_path / "parts", tmp_path / "model.gguf")
    assert [part.stat().st_size for part in parts] == [10, 10, 10, 10, 7]
    whole = pieces.joined(tmp_path / "parts")
    assert (whole.name, whole.read_bytes()) == ("model.gguf", content)
    assert pieces.joined(tmp_path / "model.gguf") == tmp_path / "model.gguf"
    parts[1].unlink()
    with pytest.raises(FileNotFoundError, match="a piece is missing"):
        pieces.joined(tmp_path / "parts")
