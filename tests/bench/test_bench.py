"""The benchmark: its arithmetic, its turns and the layout of its document."""

import io
import json
from collections import Counter

import pytest
from bench_tools import user
from rich.console import Console

from outpace.bench import runner, summary, tables
from outpace.bench.summary import Cell, Result
from outpace.bench.workloads import Workload
from outpace.errors import BadInputError
from outpace.llm import RequestOutput
from outpace.params import SamplingParams
from outpace.request import RequestStats


def answer(token_ids: list[int], steps: int, drafted: int, accepted: int, seconds: float) -> RequestOutput:
    stats = RequestStats(num_steps=steps, num_drafts=steps, num_draft_tokens=drafted, num_accepted_tokens=accepted)
    stats.decode_started_at, stats.finished_at = 10.0, 10.0 + seconds
    return RequestOutput("", token_ids, [], [], "length", [], "x", 0, stats)


def cell(output: RequestOutput, seconds: float, is_identical: bool = True) -> Cell:
    tokens = output.token_ids
    return Cell(tokens, "", len(tokens), seconds, seconds + 1, is_identical, output.stats)


def summarise(name: str, workloads: list[Workload], cells: dict[str, list[Cell]]) -> list[Result]:
    return summary.summarise(name, summary.groups(workloads, set()), cells[name], cells["none"])


WORKLOADS = [Workload("1", "chat", "math", user("a")), Workload("2", "qa", "qa", user("b")), Workload("3", "chat", "stem", user("c"))]
CELLS = {
    "none": [
        cell(answer([1] * 10, 10, 0, 0, 9), 1.0),
        cell(answer([1] * 20, 20, 0, 0, 9), 4.0),
        cell(answer([1] * 30, 30, 0, 0, 9), 3.0),
    ],
    "fast": [
        cell(answer([1] * 10, 5, 20, 5, 9), 0.5),
        cell(answer([1] * 20, 5, 40, 15, 9), 1.0),
        cell(answer([2] * 30, 10, 60, 20, 9), 1.5, False),
    ],
}


def test_totals_are_sums_and_not_means_of_ratios():
    total, chat, qa = summarise("fast", WORKLOADS, CELLS)
    assert total == Result(
        "fast", "all", 3, 60, 3.0, 20.0, 3.0, 3.0, round(40 / 120, 4), 2.667, 2, total_seconds=6.0, low=total.low, high=total.high
    )
    rate = round(25 / 80, 4)
    assert chat == Result("fast", "chat", 2, 40, 2.0, 20.0, 2.667, 2.667, rate, 2.0, 1, total_seconds=4.0, low=2.0, high=2.0)
    assert qa == Result("fast", "qa", 1, 20, 1.0, 20.0, 4.0, 4.0, 0.375, 4.0, 1, total_seconds=2.0)
    for row in summarise("none", WORKLOADS, CELLS):
        assert (row.speedup, row.tokens_per_step, row.acceptance_rate) == (1.0, 1.0, 0.0)
        assert row.num_identical == row.num_prompts


def test_speedup_compares_tokens_a_second_even_when_lengths_differ():
    cells = {"none": [cell(answer([1] * 10, 10, 0, 0, 9), 1.0)], "odd": [cell(answer([1] * 40, 10, 0, 0, 9), 2.0, False)]}
    assert summarise("odd", WORKLOADS[:1], cells)[0].speedup == 2.0


class Spy:
    """An LLM that notes who was asked, and answers with given tokens and seconds."""

    def __init__(self, answers):
        self.answers, self.order = answers, []

    def chat(self, messages, params, speculative_config, prediction=None):
        self.order.append(speculative_config)
        tokens, seconds = self.answers(speculative_config, len(self.order))
        return [answer(tokens, len(tokens), 0, 0, seconds) for _ in messages[: 1 if isinstance(messages[0], dict) else None]]


def test_drafters_take_turns_in_being_first():
    firsts = Counter()
    for index in range(3):
        spy = Spy(lambda name, n: ([1], 1.0))
        runner._run_group(spy, WORKLOADS[:1], {"none": "none", "a": {"method": "a"}, "b": "b"}, SamplingParams(), 2, index)
        spy.order = [asked["method"] if isinstance(asked, dict) else asked for asked in spy.order]  # the settings, not the label
        assert [sorted(spy.order[:3]), sorted(spy.order[3:])] == [["a", "b", "none"]] * 2  # interleaved: each once a round
        firsts.update([spy.order[0], spy.order[3]])
    assert firsts == {"none": 2, "a": 2, "b": 2}


def test_seconds_are_the_median_of_the_repeats_and_every_repeat_must_be_identical():
    spy = Spy(lambda name, n: ([1, 2] if name != "a" or n < 5 else [1, 3], {"none": 2.0, "a": float(n)}[name]))
    cells = {
        name: cell for name, (cell,) in runner._run_group(spy, WORKLOADS[:1], {"none": "none", "a": "a"}, SamplingParams(), 3, 0).items()
    }
    assert spy.order == ["none", "a", "a", "none", "none", "a"]
    assert (cells["none"].decode_seconds, cells["none"].is_identical) == (2.0, True)
    assert cells["a"].decode_seconds == pytest.approx(3.0)
    assert not cells["a"].is_identical  # the last one was [1, 3]
    assert cells["a"].token_ids == [1, 2]


def test_prompts_that_run_at_once_share_the_time_by_their_tokens(monkeypatch):
    spy, clock = Spy(lambda name, n: ([1, 2], 9.0)), iter(range(100))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: float(next(clock)))
    cells = runner._run_group(spy, WORKLOADS[:2], {"none": "none", "a": "a"}, SamplingParams(), 1, 0)
    assert spy.order == ["none", "none", "a"], "the first puts the prompts into the prefix cache"
    assert [[cell.decode_seconds for cell in found] for found in cells.values()] == [[0.5, 0.5], [0.5, 0.5]]


DOCUMENT_KEYS = [
    "model",
    "machine",
    "settings",
    "verify_cost",
    "pass_floor",
    "results",
    "steps",
    "peers",
    "about_peers",
    "noise",
    "answers",
]
RESULT_KEYS = [
    "drafter",
    "category",
    "num_prompts",
    "num_tokens",
    "decode_seconds",
    "tokens_per_second",
    "tokens_per_step",
    "mean_acceptance_length",
    "acceptance_rate",
    "speedup",
    "num_identical",
    "num_failed",
    "error",
    "total_seconds",
    "low",
    "high",
    "noise",
]


def test_the_document_has_the_layout_of_the_contract(toy_llm):
    params = SamplingParams(max_tokens=12, temperature=0.5, seed=3)
    drafters = {"blind": "blind", "my settings": {"method": "prompt_lookup", "num_draft_tokens": 2}}
    document = json.loads(json.dumps(runner.run(toy_llm, WORKLOADS, drafters, params, repeats=2)))
    assert list(document) == DOCUMENT_KEYS
    assert (document["model"], document["peers"]) == ("toy", [])
    assert document["settings"].items() >= {"num_prompts": 3, "repeats": 2, "temperature": 0.5, "seed": 3, "max_tokens": 12}.items()
    assert [entry.keys() for entry in document["verify_cost"]] == [{"num_tokens", "milliseconds"}] * 5
    assert [(r["drafter"], r["category"]) for r in document["results"]] == [
        (name, category) for name in ("none", "blind", "my settings") for category in ("all", "chat", "qa")
    ]  # the baseline is always there
    for row in document["results"]:
        assert list(row) == RESULT_KEYS
        assert row["num_identical"] == row["num_prompts"] == {"all": 3, "chat": 2, "qa": 1}[row["category"]]
        assert row["num_tokens"] > 0
        assert row["decode_seconds"] > 0
    names = ("none", "blind", "my settings")
    assert [(row["side"], row["prompt"]) for row in document["answers"]] == [(name, w.id) for name in names for w in WORKLOADS]
    assert all(("text" in row) == (row["side"] == "none") for row in document["answers"])
    assert toy_llm.engine.scheduler.running == []


def test_a_wrong_drafter_is_told_before_any_work(toy_llm):
    with pytest.raises(BadInputError, match="nonsense"):
        runner.run(toy_llm, WORKLOADS, {"blind": "blind", "x": "nonsense"}, SamplingParams(max_tokens=4))
    assert toy_llm.engine.metrics.num_steps == 0


def test_tables(toy_llm):
    rows = [r for name in CELLS for r in summarise(name, WORKLOADS, CELLS)]
    document = {
        "model": "toy",
        "settings": {"precision": "f32", "num_prompts": 3, "temperature": 0.5},
        "verify_cost": [{"num_tokens": 2, "milliseconds": 1.25}, {"num_tokens": 16, "milliseconds": 30.0}],
        "pass_floor": {"weight_bytes": 10_000_000, "gigabytes_per_second": 20.0, "milliseconds": 0.5},
        "peers": [],
        "results": [vars(row) for row in rows],
    }
    out = io.StringIO()
    for table in tables.tables(document, 140, by_category=True):
        Console(file=out, width=140).print(table)
    text = out.getvalue()
    assert "at least 0.5 ms here: memory gives 20.0 GB/s" in " ".join(text.split())
    for piece in (
        "toy f32, 3 prompts, temperature 0.5",
        "2 tokens",
        "1.2 ms",
        "16 tokens",
        "30.0 ms",
        "speedup",
        "identical",
    ):
        assert piece in text
    (line,) = [line for line in text.splitlines() if "fast" in line and "all" in line]
    assert line.replace("│", " ").split() == ["fast", "all", "20.0", "3.00", "2.67", "too", "few", "prompts", "2/3", "33%", "60"]
    assert sum("├" in line for line in text.splitlines()) == 1  # one rule between the drafters


def test_the_machine_is_named():
    machine = runner.machine()
    assert machine.keys() >= {"cpu", "cores", "system", "python", "openvino"}
    assert machine["cores"] >= 1
    json.dumps(machine)
