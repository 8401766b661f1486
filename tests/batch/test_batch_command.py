"""`outpace generate --input`, as typed; and killed half-way on a real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cli_tools import call


def generate(*arguments):
    return call("generate", *arguments)


@pytest.fixture
def folder(tmp_path, monkeypatch, toy_llm):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / f"{name}.jsonl").write_text('{"prompt": "abc"}\n{"prompt": "xyz"}\n')
    return tmp_path


@pytest.mark.parametrize(
    "inputs",
    [["--input", "data"], ["--input", "data/*.jsonl"], ["--input", "data/a.jsonl", "data/b.jsonl"]],
    ids=["folder", "quoted", "shell"],
)
def test_files_of_prompts(folder, inputs):
    result = generate(*inputs, "--output", "out", "--max-tokens", 5)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "4 of 4 lines have an answer" in " ".join(result.stderr.split())
    for name in ("a", "b"):
        rows = [json.loads(line) for line in (folder / "out" / f"{name}.jsonl").read_text("utf-8").splitlines()]
        assert [row["completion_tokens"] for row in rows] == [5, 5]


def test_the_summary_as_json_and_a_bad_line(folder):
    (folder / "data" / "b.jsonl").write_text('{"prompt": "abc"}\nnope\n')
    result = generate("--input", "data", "--output", "out", "--max-tokens", 5, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["num_lines"], document["num_new"], document["num_errors"]) == (4, 2, 1)
    assert result.stderr.splitlines()[-1] == "error: 1 of 4 lines have an error in place of an answer"
    assert "warning: b.jsonl:2: not JSON" in result.stderr


def test_answers_of_another_default_model_are_not_reused(folder, monkeypatch):
    def num_new():
        return json.loads(generate("--input", "data", "--output", "out", "--max-tokens", 5, "--json").stdout)["num_new"]

    assert [num_new(), num_new()] == [2, 0]  # the two files have the same two lines
    monkeypatch.setenv("OUTPACE_MODEL", "another")
    assert [num_new(), num_new()] == [2, 0]


def test_answers_of_another_verifier_are_not_reused(folder):
    def num_new(settings):
        (folder / "settings.json").write_text(json.dumps(settings))
        result = generate("--input", "data", "--output", "out", "--max-tokens", 5, "--json", "--config", "settings.json")
        return json.loads(result.stdout)["num_new"]

    assert [num_new({"method": "suffix"}), num_new({"method": "none"})] == [2, 0]  # the text is the same with any drafter
    typical = {"method": "suffix", "verifier": "typical"}
    assert [num_new(typical), num_new(typical), num_new(typical | {"num_draft_tokens": 2})] == [2, 0, 2]


def test_an_empty_input_has_an_empty_answer_file(folder):
    (folder / "data" / "b.jsonl").write_text("\n\n")
    result = generate("--input", "data/b.jsonl", "--output", "out")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 of 0 lines have an answer" in " ".join(result.stderr.split())
    assert (folder / "out" / "b.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", [".lock", ".answers.jsonl", "a.jsonl"])
def test_an_output_that_cannot_be_written_is_named(folder, name):
    (folder / "out" / name).mkdir(parents=True)
    (folder / "out" / name / "kept").touch()
    result = generate("--input", "data/a.jsonl", "--output", "out", "--max-tokens", 5)
    assert result.exit_code in (1, 2)
    assert name in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "data"], "--input needs --output"),
        (["--output", "out", "hello"], "--output is for --input"),
        (["--input", "data", "--output", "out", "--compare"], "--compare cannot be used with --input"),
        (["--input", "data", "--output", "out", "--show-drafts"], "--show-drafts cannot be used with --input"),
        (["two", "words"], "put quotes around"),
        (["--input", "nowhere", "--output", "out"], "there is no file nowhere"),
        (["--input", "data", "--output", "data/a.jsonl"], "cannot make the folder"),
    ],
)
def test_options_that_do_not_fit(folder, arguments, message):
    result = generate(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.real
def test_killed_half_way_and_resumed(tmp_path):
    """kill -9 when some answers are in the log; the second run gives what a run in one go gives, and repeats none of them."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"Name a river of country number {i}.", "id": i}) + "\n" for i in range(24)))
    command = [sys.executable, "-m", "outpace", "generate", "--input", str(source), "--model", "tiny", "--max-tokens", "24"]
    command += ["--threads", "1", "--max-num-seqs", "2", "--json", "--output"]
    out, log = tmp_path / "out", tmp_path / "out" / ".answers.jsonl"
    with subprocess.Popen([*command, str(out)], env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        end = time.monotonic() + 240
        while not (log.exists() and log.read_bytes().count(b"\n") >= 6):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    num_kept = log.read_bytes().count(b"\n")
    assert 6 <= num_kept < 24
    assert not (out / "in.jsonl").exists()
    summary = json.loads(subprocess.run([*command, str(out)], capture_output=True, text=True, check=True).stdout)
    assert summary["num_new"] == 24 - num_kept
    subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, check=True)
    assert (out / "in.jsonl").read_bytes() == (tmp_path / "whole" / "in.jsonl").read_bytes()
    rows = [json.loads(line) for line in (out / "in.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == list(range(24))
