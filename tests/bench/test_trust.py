"""Measurements that cannot be trusted are told, in bench and in tune."""

from __future__ import annotations

import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from tune_tools import LOOKUP, STEADY, SUFFIX, samples

from outpace import machine
from outpace.bench import summary, tables
from outpace.bench.summary import Cell
from outpace.bench.trust import interval_text, is_possible, machine_noise, spread
from outpace.errors import OutpaceError
from outpace.machine import LoadMeter
from outpace.params import SamplingParams
from outpace.request import RequestStats
from outpace.tune import session
from outpace.tune.candidates import PLAIN
from outpace.tune.verdict import Tried, verdict


def metered(monkeypatch, *clocks):
    """The share that a meter finds for these (busy, all, own) seconds before and after each timing."""
    source = iter(clocks)
    monkeypatch.setattr(machine, "_clocks", lambda: next(source))
    meter = LoadMeter()
    for _ in range(len(clocks) // 2):
        with meter.timing():
            pass
    return meter.other_share


def test_the_share_of_other_programs(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert metered(monkeypatch, (10.0, 100.0, 3.0), (30.0, 120.0, 20.0)) == pytest.approx(3 / 20)
    assert metered(monkeypatch, (0.0, 0.0, 0.0), (4.0, 4.0, 4.0), (9.0, 9.0, 4.0), (13.0, 13.0, 6.0)) == pytest.approx(2 / 8)
    assert metered(monkeypatch, (0.0, 0.0, 0.0), (1.0, 1.5, 0.0)) is None  # too short for clocks of 10 ms
    assert metered(monkeypatch, None, None) is None
    assert metered(monkeypatch, (0.0, 0.0, 0.0), (9.9, 10.0, 10.0)) == 0.0


def test_the_clocks_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.undo()
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "STAT", stat)
    assert machine._clocks() is None
    stat.write_text("cpu  100 0 100 700 100 0 0 50 9 9\n" + "".join(f"cpu{i} 0\n" for i in range(os.cpu_count())) + "intr 5\n")
    tick = os.sysconf("SC_CLK_TCK")
    busy, everything, own = machine._clocks()
    assert (busy, everything) == (250 / tick, 1050 / tick)
    assert own > 0
    stat.write_text("cpu  100 0 100 700 100 0 0 50 9 9\ncpu0 0\n" + "".join(f"cpu{i} 0\n" for i in range(1, os.cpu_count() + 1)))
    assert machine._clocks() is None  # those of a container's host


def test_what_is_too_noisy():
    assert machine_noise(None) == machine_noise(0.1, 0.2) == ""
    assert machine_noise(0.25, 0.5) == "other programs took 25% of the CPU"
    assert machine_noise(0.0, 0.3) == "repeats of the same prompt differ by 30%"
    assert spread([2.0]) == 0.0
    assert spread([2.0, 1.0, 4.0]) == 1.5
    assert spread([0.0, 0.0]) == 0.0
    assert is_possible(2.1, 2.0)
    assert not is_possible(2.11, 2.0)


def test_intervals_that_say_nothing():
    assert interval_text(1.5, 1.75) == "1.50 to 1.75"
    assert interval_text(1.0, 2.0) == "1.00 to 2.00"
    assert interval_text(1.0, 2.01) == interval_text(None, None) == "too few prompts"


def cells(seconds: list[float], num_steps: int = 10) -> list[Cell]:
    return [Cell(list(range(20)), "", 20, each, each, True, RequestStats(num_steps=num_steps)) for each in seconds]


def test_a_row_whose_speedup_is_impossible():
    plain, good, lucky = cells([1.0, 1.0, 1.0], 20), cells([0.6, 0.6, 0.6]), cells([0.4, 0.4, 0.4])
    groups = {"all": [0, 1, 2]}
    assert [row.noise for row in summary.summarise("x", groups, good, plain)] == [None]
    assert [row.noise for row in summary.summarise("x", groups, good, plain, "a storm")] == ["a storm"]
    (row,) = summary.summarise("x", groups, lucky, plain)
    assert row.noise == "a speedup of 2.50 with 2.00 tokens per step is impossible"
    assert summary.summarise("x", groups, lucky, plain, is_alone=False)[0].noise is None  # prompts at once share the time
    assert (row.low, row.high) == (2.5, 2.5)
    assert summary.summarise("x", {"all": [0]}, good, plain)[0].low is None  # one prompt


DOCUMENT = {
    "model": "toy",
    "settings": {"precision": "f32", "num_prompts": 4, "temperature": 0.0},
    "verify_cost": [{"num_tokens": 2, "milliseconds": 1.25}],
    "peers": [],
}


def shown(document, width, by_category=False) -> list[str]:
    out = io.StringIO()
    for table in tables.tables(document, width, by_category):
        Console(file=out, width=width).print(table)
    return out.getvalue().splitlines()


def row(name: str, category: str = "all", **changes) -> dict:
    found = {"num_prompts": 4, "num_tokens": 80, "tokens_per_second": 40.0, "tokens_per_step": 2.0, "acceptance_rate": 0.5, "speedup": 1.7}
    found |= {"num_identical": 4, "num_failed": 0, "error": None, "low": 1.6, "high": 1.8, "noise": None}
    return {"drafter": name, "category": category, **found, **changes}


def peer(name: str, **changes) -> dict:
    return {**row("", relative_speed=0.8), "peer": name, **changes}


def line_of(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if name in line and "│" in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_table_fits_the_terminal():
    peers = [{k: v for k, v in peer(name).items() if k != "drafter"} for name in ("llama.cpp:plain", "llama.cpp:ngram-simple")]
    document = {**DOCUMENT, "results": [row("none"), row("auto")], "peers": peers}
    narrow, wide = shown(document, 80), shown(document, 120)
    assert max(map(len, narrow)) <= 80
    assert line_of(narrow, "auto") == ["auto", "40.0", "2.00", "1.70", "1.60 to 1.80", "4/4"]
    theirs = [[cell.strip() for cell in line.strip("│").split("│")] for line in narrow if "–" in line]
    assert [cells[1:] for cells in theirs] == [["40.0", "–", "1.70", "1.60 to 1.80", "4/4"]] * 2
    assert line_of(wide, "auto") == ["auto", "40.0", "2.00", "1.70", "1.60 to 1.80", "1.70", "4/4", "50%", "80"]
    assert line_of(wide, "plain") == ["llama.cpp:plain", "40.0", "–", "1.70", "1.60 to 1.80", "0.80", "4/4", "–", "80"]
    assert sum("├" in line for line in narrow) == 1  # between ours and theirs
    assert sum("llama.cpp:" in line for line in narrow) == sum("ngram-simple" in line for line in narrow) + 1 == 2
    assert "of ours" not in "".join(narrow)
    assert "of ours: tokens/s / those of our plain decoding." in " ".join(" ".join(wide).split())


def test_the_table_says_what_cannot_be_trusted():
    rows = [row("none"), row("noisy", noise="a storm"), row("few", low=1.0, high=9.0), row("broken", num_failed=1, error="it broke")]
    rows += [row("none", "looping", num_prompts=2)]
    lines = shown({**DOCUMENT, "results": rows}, 80)
    assert line_of(lines, "noisy")[3:5] == ["too noisy", "–"]
    assert line_of(lines, "few")[3:5] == ["1.70", "too few prompts"]
    assert line_of(lines, "broken")[3] == "failed"
    text = " ".join(" ".join(lines).split())
    assert "Too noisy to trust: a storm." in text
    assert "broken failed: it broke" in text
    assert "Not counted: prompts whose answer runs in circles, 2 here" in text
    assert not any("looping" in line for line in lines)
    assert any("looping" in line for line in shown({**DOCUMENT, "results": rows}, 80, by_category=True))
    empty = shown({**DOCUMENT, "results": [row("none", num_prompts=0, num_identical=0)]}, 80)
    assert line_of(empty, "none") == ["none", "–", "–", "–", "–", "0/0"]


def test_tune_chooses_nothing_on_a_noisy_machine():
    found = verdict([Tried(SUFFIX, samples(STEADY))], "a storm")
    assert (found.config, found.is_trusted) == (PLAIN, False)
    assert found.text == "Too noisy to trust: a storm. Nothing was chosen; try again on a quiet machine."
    assert verdict([Tried(SUFFIX, samples(STEADY))]).is_trusted


def test_tune_does_not_choose_an_impossible_speedup():
    found = verdict([Tried(SUFFIX, samples([4.4, 4.5, 4.6] * 3)), Tried(LOOKUP, samples([1.5, 1.6, 1.55] * 3))])  # 4 tokens per step
    assert found.config == LOOKUP
    assert "suffix is too noisy to trust: 4.50x" in found.text


def test_tune_writes_no_file_on_a_noisy_machine(toy_llm, tmp_path, monkeypatch, capsys):
    from bench_tools import user

    from outpace.bench.workloads import Workload

    monkeypatch.setattr(session, "machine_noise", lambda share: "a storm")
    workloads = [Workload(str(i), "chat", "chat", user("abc " * i)) for i in range(1, 5)]
    out = tmp_path / "c.json"
    with pytest.raises(OutpaceError, match="was not written: the measurement is too noisy to trust"):
        session.run(toy_llm, workloads, [SUFFIX], [SamplingParams(max_tokens=6)], 3.0, True, out)
    assert not out.exists()
    document = json.loads(capsys.readouterr().out)
    assert document["is_trusted"] is False
    assert document["verdict"].startswith("Too noisy to trust: a storm.")


# ---- specs in tables


@pytest.mark.parametrize(
    ("spec", "width", "lines"),
    [
        ("auto", 2, ["auto"]),
        ("prompt_lookup+recycling", 23, ["prompt_lookup+recycling"]),
        ("prompt_lookup+recycling", 22, ["prompt_lookup+", "recycling"]),
        ("auto:prediction+suffix+recycling", 20, ["auto:prediction+", "suffix+recycling"]),
        ("llama.cpp:ngram-simple:size_n=3", 14, ["llama.cpp:", "ngram-simple:", "size_n=3"]),
        ("suffix, 8 drafted", 12, ["suffix, 8", "drafted"]),
    ],
)
def test_a_spec_in_lines(spec, width, lines):
    assert tables.SpecText(spec).lines(width) == lines


@given(st.lists(st.text("abc_=", min_size=1, max_size=9), min_size=1, max_size=6), st.sampled_from("+:"), st.integers(1, 40))
def test_nothing_is_lost_and_no_name_is_cut(names, joint, width):
    lines = tables.SpecText(joint.join(names)).lines(width)
    assert "".join(lines) == joint.join(names)
    assert [name for line in lines for name in line.rstrip(joint).split(joint)] == names
    assert all(len(line) <= width or joint not in line[:-1] for line in lines)


def test_a_table_gives_it_the_room_that_there_is():
    def rows(width: int) -> list[str]:
        table, out = Table("drafter", "tokens/s"), io.StringIO()
        table.add_row(tables.SpecText("suffix+recycling"), "71.0")
        Console(file=out, width=width).print(table)
        return [line.split("│")[1].strip() for line in out.getvalue().splitlines() if "│" in line]

    assert rows(60) == ["suffix+recycling"]
    assert rows(24) == ["suffix+", "recycling"]
