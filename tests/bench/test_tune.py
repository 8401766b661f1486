"""The command `outpace tune`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import call
from rich.console import Console
from tune_tools import BOTH, LOOKUP, STEADY, SUFFIX, samples

from outpace.bench.workloads import Workload
from outpace.config import FILE_VERSION, SpeculativeConfig
from outpace.errors import BadInputError, OutpaceError
from outpace.models.catalog import default_name
from outpace.params import SamplingParams
from outpace.tune import findings as report
from outpace.tune import session
from outpace.tune.jobs import jobs
from outpace.tune.search import Outcome, Search
from outpace.tune.verdict import Tried, verdict


@pytest.fixture
def prompts(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": i, "prompt": "abc abc " * (i + 1), "category": "qa" if i % 2 else "chat"} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "wrong.json").write_text('{"version": 2, "method": "suffix"}')
    return tmp_path


def test_json_and_a_file_that_the_other_commands_accept(prompts, toy_llm):
    result = call("tune", "--prompts", "p.jsonl", "--time-limit", 4, "--max-tokens", 12, "--json", "--out", "c.json")
    assert result.exit_code == 0, result.output
    found, written = json.loads(result.stdout), json.loads((prompts / "c.json").read_text())
    assert found["config"] == written
    assert list(written) == [key for key in ("version", "method", "num_draft_tokens", "load", "measured") if key in written]
    assert (written["version"], written["load"]) == (FILE_VERSION, {"model": default_name()})
    assert written["measured"].keys() >= {
        "model",
        "cpu",
        "cores",
        "date",
        "precision",
        "num_prompts",
        "speedup",
        "low",
        "high",
        "categories",
    }
    for row in found["results"]:
        assert row.keys() >= {"method", "category", "num_prompts", "num_tokens", "tokens_per_step", "speedup", "low", "high"}
        assert row["num_identical"] == row["num_prompts"]
        assert row["failure"] is None
    assert {row["category"] for row in found["results"]} == {"all", "chat", "qa"}
    assert found["seconds"] < 6
    assert found["verdict"] == written["measured"]["verdict"] != ""
    answer = call("generate", "abc", "--max-tokens", 8, "--config", "c.json", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["drafter"] == written["method"]
    again = call("tune", "--prompts", "p.jsonl", "--time-limit", 1, "--max-tokens", 6, "--drafters", "suffix", "--config", "c.json")
    assert again.exit_code == 0, again.output


def test_tables_and_verdict_for_people(prompts, toy_llm):
    result = call("tune", "--prompts", "p.jsonl", "--time-limit", 2, "--max-tokens", 8, "--drafters", "prompt_lookup,blind")
    assert result.exit_code == 0, result.output
    for piece in ("toy f32", "method", "prompts", "95%", "prompt_lookup", "blind", "category", "plain"):
        assert piece in result.stdout
    assert [path.name for path in prompts.iterdir() if path.suffix == ".json"] == ["wrong.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "missing.jsonl"], "cannot read missing.jsonl: No such file or directory"),
        (["--prompts", "empty.jsonl"], "empty.jsonl has no prompts"),
        (["--prompts", "p.jsonl", "--out", "nowhere/c.json"], "there is no folder"),
        (["--prompts", "p.jsonl", "--out", "."], ". is a folder"),
        (["--prompts", "p.jsonl", "--drafters", "nonsense"], "unknown drafter 'nonsense'"),
        (["--prompts", "p.jsonl", "--drafters", ","], "--drafters names no drafter"),
        (["--prompts", "p.jsonl", "--config", "wrong.json"], "speculative settings of version 2; this outpace reads version 1"),
        (["--prompts", "p.jsonl", "--config", "missing.json"], "cannot read missing.json"),
        (["--prompts", "p.jsonl", "--time-limit", "0"], "time-limit"),
        (["--prompts", "p.jsonl", "--limit", "0"], "limit"),
        (["--prompts", "p.jsonl", "--temperature", "0,warm"], "--temperature must be numbers"),
        (["--prompts", "builtin:nonsense"], "known: builtin, builtin:code"),
    ],
)
def test_bad_input_is_told_before_the_model_loads(prompts, monkeypatch, arguments, message):
    monkeypatch.setattr("outpace.llm.load", lambda *_: pytest.fail("the model was loaded"))
    result = call("tune", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("seconds", ["nan", "inf"])
def test_a_time_limit_is_a_number(prompts, toy_llm, seconds):
    result = call("tune", "--prompts", "p.jsonl", "--time-limit", seconds)
    assert result.exit_code == 2
    assert re.search("time.limit", result.stderr)


def test_only_plain_decoding_is_nothing_to_try(prompts, toy_llm):
    result = call("tune", "--prompts", "p.jsonl", "--drafters", "none")
    assert result.exit_code == 2
    assert "nothing to try" in result.stderr


def test_prompts_that_are_all_too_long(prompts, toy_llm):
    (prompts / "long.jsonl").write_text(json.dumps({"prompt": "abc " * 500}))
    result = call("tune", "--prompts", "long.jsonl", "--drafters", "suffix")
    assert result.exit_code == 1
    assert "no prompt could be run; prompt 1: the prompt has" in result.stderr


def test_a_time_limit_that_is_too_short(prompts, toy_llm, monkeypatch):
    monkeypatch.setattr(session, "_warm_up", lambda *_: None)
    monkeypatch.setattr(Search, "run", lambda self: Outcome([Tried(SUFFIX)], {}, False, 1.0, 3.5))
    result = call("tune", "--prompts", "p.jsonl", "--drafters", "suffix", "--time-limit", "1")
    assert result.exit_code == 1
    assert "a time limit of 1 s is too short to compare anything: a prompt takes about 7 s" in result.stderr


def test_ctrl_c_prints_what_is_known_and_writes_nothing(prompts, toy_llm, monkeypatch):
    chat, calls = type(toy_llm).chat, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return chat(self, *arguments, **options)

    monkeypatch.setattr(type(toy_llm), "chat", interrupted)
    result = call("tune", "--prompts", "p.jsonl", "--drafters", "suffix,blind", "--max-tokens", 8, "--out", "c.json")
    assert result.exit_code == 130
    assert "suffix" in result.stdout
    assert "no settings were written" in result.stderr
    assert not (prompts / "c.json").exists()


def test_temperatures_are_tuned_together_and_told_apart(prompts, toy_llm):
    options = ["--temperature", "0,0.8", "--seeds", 2, "--drafters", "suffix", "--time-limit", 4, "--max-tokens", 8]
    result = call("tune", "--prompts", "p.jsonl", *options, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["settings"]["temperature"], found["settings"]["seed"]) == ([0, 0.8], [0, 1])
    assert {row["category"] for row in found["results"]} == {"all", "chat at 0", "qa at 0", "chat at 0.8", "qa at 0.8"}
    assert all(row["num_identical"] == row["num_prompts"] for row in found["results"])
    shown = call("tune", "--prompts", "p.jsonl", *options)
    assert "temperature 0 and 0.8" in shown.stdout


def test_every_prompt_runs_at_every_temperature_with_every_seed():
    workloads = [Workload("a", "chat", "chat", []), Workload("b", "qa", "qa", [])]
    greedy, *sampled = (SamplingParams(temperature=t, seed=seed) for t, seed in ((0.0, 5), (0.8, 5), (0.8, 6)))
    assert jobs(workloads, [greedy]) == [(workload, greedy) for workload in workloads]
    found = jobs(workloads, [greedy, *sampled])
    assert [(workload.id, workload.category, params) for workload, params in found] == [
        ("a at 0", "chat at 0", greedy),
        ("b at 0", "qa at 0", greedy),
        ("a at 0.8, seed 5", "chat at 0.8", sampled[0]),
        ("b at 0.8, seed 5", "qa at 0.8", sampled[0]),
        ("a at 0.8, seed 6", "chat at 0.8", sampled[1]),
        ("b at 0.8, seed 6", "qa at 0.8", sampled[1]),
    ]
    assert {workload.category for workload, _ in jobs(workloads, sampled)} == {"chat", "qa"}


def test_tables_show_why():
    tried = [
        Tried(SUFFIX, samples(STEADY) + samples([1.5], "qa", 6)),
        Tried(LOOKUP, samples([0.8] * 3), dropped="slower than plain decoding"),
    ]
    outcome, out = Outcome([*tried, Tried(BOTH)], {}, False, 12.0, 1.0), io.StringIO()
    advice = verdict(tried)
    for table in report.tables({"model": "m", "settings": {"precision": "int8", "temperature": 0}}, outcome, advice):
        Console(file=out, width=120).print(table)
    lines = [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]
    assert any(line.startswith("suffix default 7 4.00 1.67 1.") and line.endswith("7/7 chosen") for line in lines)
    assert "prompt_lookup 7 3 4.00 0.80 0.80 to 0.80 3/3 slower than plain decoding" in lines
    assert "suffix+recycling default 0 0.00 0/0 no time left" in lines
    assert "qa 1 4.00 1.50 1/1" in lines


@pytest.mark.parametrize("width", [80, 100, 121])
def test_tables_fit_the_terminal_and_cut_no_name(width):
    eight = SpeculativeConfig(method="prompt_lookup+recycling", num_draft_tokens=8)
    tried = [Tried(eight, samples(STEADY)), Tried(SUFFIX, samples([0.8] * 3), dropped="slower than plain decoding"), Tried(BOTH)]
    out = io.StringIO()
    found = {"model": "m", "settings": {"precision": "int8", "temperature": 0}}
    for table in report.tables(found, Outcome(tried, {}, False, 12.0, 1.0), verdict(tried), width):
        Console(file=out, width=width).print(table)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for name in ("prompt_lookup+", "recycling", "suffix", "decoding", "tokens/step", "identical"):
        assert name in text
    assert ("drafted ┃ prompts" in text) == (width > 120)


def test_the_search_needs_something_to_try(toy_llm):
    with pytest.raises(BadInputError, match="nothing to try"):
        session.tune(toy_llm, [], [], None, 1)
    assert issubclass(BadInputError, OutpaceError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "1", "method": "suffix"}, "version '1'"),
        ({"version": 1, "method": "suffix", "measurd": {}}, "unknown speculative setting 'measurd'"),
    ],
)
def test_files_of_settings_are_checked(settings, message):
    with pytest.raises(BadInputError, match=message):
        SpeculativeConfig.of(settings)


def test_files_of_settings_are_read():
    settings = {"version": 1, "method": "suffix", "num_draft_tokens": 7, "measured": {"speedup": 2}}
    assert SpeculativeConfig.of(settings) == SpeculativeConfig("suffix", 7)


@pytest.mark.real
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_on_the_real_model(llm, prompts):
    command = [sys.executable, "-m", "outpace", "tune", "--prompts", "p.jsonl", "--drafters", "suffix,blind", "--out", "c.json"]
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear) as process:
        assert any(b"round 1" in line for line in process.stderr)  # after "loading ...", on a slow machine
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith(b"interrupted\n")
    assert not (prompts / "c.json").exists()
