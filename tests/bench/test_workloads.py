"""Prompt files and the benchmark's arithmetic: which prompts, in which order, and what the figures mean."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from outpace.bench import report, runner
from outpace.bench.workloads import CHAT_CATEGORIES, Workload, read_prompts, spread
from outpace.errors import BadInputError
from outpace.llm import RequestOutput
from outpace.params import SamplingParams
from outpace.request import RequestStats


def write(folder: Path, *rows: object) -> Path:
    """A prompt file; texts are written as they are."""
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", "utf-8")
    return path


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# ---- formats


def test_every_format(tmp_path):
    talk = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi", "name": "x"}]
    rows = [{"prompt": "one"}, "", {"messages": talk}, "   ", {"turns": ["first", "second"]}, {"prompt": "é 中\n😀", "other": 1}]
    found = read_prompts(write(tmp_path, *rows))
    assert found == [
        Workload("1", "prompts", "prompts", user("one")),
        Workload("3", "prompts", "prompts", [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]),
        Workload("5", "prompts", "prompts", user("first")),
        Workload("6", "prompts", "prompts", user("é 中\n😀")),
    ]


def test_ids(tmp_path):
    rows = [{"id": "a", "prompt": "x"}, {"question_id": 82, "prompt": "x"}, {"id": 1, "question_id": 2, "prompt": "x"}, {"prompt": "x"}]
    assert [w.id for w in read_prompts(write(tmp_path, *rows))] == ["a", "82", "1", "4"]


def test_the_eight_parts_of_mt_bench_are_one_category(tmp_path):
    parts = ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"]
    assert set(parts) == CHAT_CATEGORIES
    found = read_prompts(write(tmp_path, *({"category": part, "turns": ["x"]} for part in [*parts, "math_reasoning", "qa"])))
    assert [w.category for w in found] == ["chat"] * 8 + ["math_reasoning", "qa"]
    assert [w.part for w in found] == [*parts, "math_reasoning", "qa"]


def test_line_ends_of_windows(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [w.messages[0]["content"] for w in read_prompts(path)] == ["a", "b"]


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u0085"])
def test_only_a_newline_ends_a_line(tmp_path, letter):
    path = write(tmp_path, json.dumps({"prompt": f"a{letter}b"}, ensure_ascii=False), {"prompt": "c"})
    assert [w.messages[0]["content"] for w in read_prompts(path)] == [f"a{letter}b", "c"]


# ---- what is wrong is told with its line


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{bad", "not JSON"),
        ("prompt: x", "not JSON"),
        ("[1]", "not a JSON object"),
        ('"x"', "not a JSON object"),
        ("null", "not a JSON object"),
        ({}, "needs a non-empty 'prompt', 'messages' or 'turns'"),
        ({"text": "x"}, "needs a non-empty"),
        ({"prompt": ""}, "needs a non-empty"),
        ({"prompt": " \n"}, "needs a non-empty"),
        ({"prompt": None}, "needs a non-empty"),
        ({"prompt": ["x"]}, "needs a non-empty"),
        ({"turns": []}, "needs a non-empty"),
        ({"turns": "x"}, "needs a non-empty"),
        ({"turns": [{"content": "x"}]}, "needs a non-empty"),
        ({"messages": []}, "needs a non-empty"),
        ({"messages": "x"}, "needs a non-empty"),
        ({"messages": ["x"]}, "needs a non-empty"),
        ({"messages": [{"role": "user"}]}, "needs a non-empty"),
        ({"messages": [{"content": "x"}]}, "needs a non-empty"),
    ],
)
def test_errors_name_the_line(tmp_path, row, message):
    path = write(tmp_path, {"prompt": "x"}, "", row, {"prompt": "x"})
    with pytest.raises(BadInputError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, [{"type": "text", "text": "hi"}], {"a": 1}, ""])
def test_contents_that_are_no_text_are_refused(tmp_path, content):
    with pytest.raises(BadInputError, match=r"prompts.jsonl:1: "):
        read_prompts(write(tmp_path, {"messages": [{"role": "user", "content": content}]}))


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_a_file_without_prompts(tmp_path, content):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(BadInputError, match=r"p\.jsonl has no prompts"):
        read_prompts(tmp_path / "p.jsonl")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in (("missing", "No such file"), ("binary", "codec can't decode"), (".", "Is a directory")):
        with pytest.raises(BadInputError, match=message) as caught:
            read_prompts(tmp_path / name)
        assert str(caught.value).startswith("cannot read ")


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one(tmp_path, limit):
    with pytest.raises(BadInputError, match="limit must be at least 1"):
        read_prompts(write(tmp_path, {"prompt": "x"}), limit)


# ---- limits


def spec_bench(folder: Path) -> Path:
    """As Spec-Bench: 80 chat prompts in 8 parts, and 5 categories of 80."""
    parts = [part for part in sorted(CHAT_CATEGORIES) for _ in range(10)]
    others = [name for name in ("translation", "summarization", "qa", "math_reasoning", "rag") for _ in range(80)]
    return write(folder, *({"question_id": 81 + i, "category": c, "turns": [f"p{i}"]} for i, c in enumerate([*parts, *others])))


@pytest.mark.parametrize(
    ("limit", "chat_parts"),
    [(6, 1), (12, 2), (48, 8), (96, 8)],
)
def test_a_limit_is_spread_evenly_over_categories_and_their_parts(tmp_path, limit, chat_parts):
    path = spec_bench(tmp_path)
    found = read_prompts(path, limit)
    assert len(found) == len({w.id for w in found}) == limit
    assert set(Counter(w.category for w in found).values()) == {limit // 6}
    parts = Counter(w.part for w in found if w.category == "chat")
    assert len(parts) == chat_parts
    assert len(set(parts.values())) == 1
    assert read_prompts(path, limit) == found  # the same ones every time
    assert [w.id for w in found if w.category == "rag"] == [str(481 + i) for i in range(limit // 6)]  # the first of the file


def test_a_larger_limit_takes_the_same_prompts_and_more(tmp_path):
    path = spec_bench(tmp_path)
    for small, large in ((1, 2), (5, 6), (7, 48), (48, 479)):
        assert {w.id for w in read_prompts(path, small)} < {w.id for w in read_prompts(path, large)}


def test_a_limit_larger_than_the_file_takes_all(tmp_path):
    path = spec_bench(tmp_path)
    for limit in (480, 481, 10**6):
        assert sorted(w.id for w in read_prompts(path, limit)) == sorted(w.id for w in read_prompts(path))


def test_a_small_category_leaves_its_share_to_the_others(tmp_path):
    rows = [{"category": "a", "prompt": "x"}] + [{"category": "b", "prompt": "x"}] * 9
    assert Counter(w.category for w in read_prompts(write(tmp_path, *rows), 6)) == {"a": 1, "b": 5}


PARTS = st.lists(st.sampled_from(["writing", "math", "stem", "qa", "rag"]), min_size=1, max_size=30)


@settings(deadline=None)
@given(PARTS, st.integers(1, 40))
def test_spread(parts, limit):
    everything = [Workload(str(i), "chat" if p in CHAT_CATEGORIES else p, p, user("x")) for i, p in enumerate(parts)]
    found = spread(everything, limit)
    assert len(found) == min(limit, len(everything))
    assert len({w.id for w in found}) == len(found)
    available, taken = Counter(w.category for w in everything), Counter(w.category for w in found)
    for category in available:  # who has fewer than the most has given all
        assert taken[category] >= max(taken.values()) - 1 or taken[category] == available[category]
    by_category: dict[str, list[Workload]] = {}
    for w in found:
        by_category.setdefault(w.category, []).append(w)
    assert found == [w for group in by_category.values() for w in group]  # categories stay together


def test_prompts_that_share_an_id_are_different_prompts(tmp_path):
    rows = [{"id": "2", "prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]  # the second line's id is its number
    assert len(read_prompts(write(tmp_path, *rows), 1)) == 1


# ---- the benchmark's arithmetic


def answer(token_ids: list[int], steps: int, drafted: int, accepted: int, seconds: float) -> RequestOutput:
    stats = RequestStats(num_steps=steps, num_drafts=steps, num_draft_tokens=drafted, num_accepted_tokens=accepted)
    stats.decode_started_at, stats.finished_at = 10.0, 10.0 + seconds
    return RequestOutput("", token_ids, [], [], "length", [], "x", 0, stats)


def cell(output: RequestOutput, seconds: float, is_identical: bool = True) -> runner._Cell:
    return runner._Cell(output, seconds, is_identical)


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
    total, chat, qa = runner._summarise("fast", WORKLOADS, CELLS)
    assert total == runner.Result("fast", "all", 3, 60, 3.0, 20.0, 3.0, 3.0, round(40 / 120, 4), 2.667, 2)
    assert chat == runner.Result("fast", "chat", 2, 40, 2.0, 20.0, 2.667, 2.667, round(25 / 80, 4), 2.0, 1)
    assert qa == runner.Result("fast", "qa", 1, 20, 1.0, 20.0, 4.0, 4.0, 0.375, 4.0, 1)
    for row in runner._summarise("none", WORKLOADS, CELLS):
        assert (row.speedup, row.tokens_per_step, row.acceptance_rate) == (1.0, 1.0, 0.0)
        assert row.num_identical == row.num_prompts


def test_speedup_compares_tokens_a_second_even_when_lengths_differ():
    cells = {"none": [cell(answer([1] * 10, 10, 0, 0, 9), 1.0)], "odd": [cell(answer([1] * 40, 10, 0, 0, 9), 2.0, False)]}
    assert runner._summarise("odd", WORKLOADS[:1], cells)[0].speedup == 2.0


class Spy:
    """An LLM that notes who was asked, and answers with given tokens and seconds."""

    def __init__(self, answers):
        self.answers, self.order = answers, []

    def chat(self, messages, params, speculative_config):
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
    assert cells["a"].output.token_ids == [1, 2]


def test_prompts_that_run_at_once_share_the_time_by_their_tokens(monkeypatch):
    spy, clock = Spy(lambda name, n: ([1, 2], 9.0)), iter(range(100))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: float(next(clock)))
    cells = runner._run_group(spy, WORKLOADS[:2], {"none": "none", "a": "a"}, SamplingParams(), 1, 0)
    assert spy.order == ["none", "none", "a"], "the first puts the prompts into the prefix cache"
    assert [[cell.decode_seconds for cell in found] for found in cells.values()] == [[0.5, 0.5], [0.5, 0.5]]


DOCUMENT_KEYS = ["model", "machine", "settings", "verify_cost", "results", "peers"]
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
    assert toy_llm.engine.scheduler.running == []


def test_a_wrong_drafter_is_told_before_any_work(toy_llm):
    with pytest.raises(BadInputError, match="nonsense"):
        runner.run(toy_llm, WORKLOADS, {"blind": "blind", "x": "nonsense"}, SamplingParams(max_tokens=4))
    assert toy_llm.engine.metrics.num_steps == 0


def test_tables(toy_llm):
    rows = [r for name in CELLS for r in runner._summarise(name, WORKLOADS, CELLS)]
    document = {
        "model": "toy",
        "settings": {"precision": "f32", "num_prompts": 3, "temperature": 0.5},
        "verify_cost": [{"num_tokens": 2, "milliseconds": 1.25}, {"num_tokens": 16, "milliseconds": 30.0}],
        "results": [vars(row) for row in rows],
    }
    out = io.StringIO()
    for table in report.tables(document):
        Console(file=out, width=120).print(table)
    text = out.getvalue()
    for piece in ("toy f32, 3 prompts, temperature 0.5", "2 tokens", "1.2 ms", "16 tokens", "30.0 ms", "speedup", "identical"):
        assert piece in text
    (line,) = [line for line in text.splitlines() if "fast" in line and "all" in line]
    assert line.replace("│", " ").split() == ["fast", "all", "3", "60", "20.0", "3.00", "33%", "2.67", "2/3"]
    assert sum("├" in line for line in text.splitlines()) == 1  # one rule between the drafters


def test_the_machine_is_named():
    machine = runner.machine()
    assert machine.keys() >= {"cpu", "cores", "system", "python", "openvino"}
    assert machine["cores"] >= 1
    json.dumps(machine)
