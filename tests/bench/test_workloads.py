"""Files of prompts: every format, what is wrong with its line, and limits that are spread evenly."""

import json
from collections import Counter
from pathlib import Path

import pytest
from bench_tools import user
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.bench.workloads import CHAT_CATEGORIES, Workload, read_prompts, spread
from outpace.errors import BadInputError


def write(folder: Path, *rows: object) -> Path:
    """A prompt file; texts are written as they are."""
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", "utf-8")
    return path


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
    rows = [{"question_id": i, "category": part, "turns": ["x"]} for i, part in enumerate([*parts, "math_reasoning", "qa"])]
    found = read_prompts(write(tmp_path, *rows))
    assert [w.category for w in found] == ["chat"] * 8 + ["math_reasoning", "qa"]
    assert [w.part for w in found] == [*parts, "math_reasoning", "qa"]


@pytest.mark.parametrize("row", [{"prompt": "x"}, {"turns": ["x"]}, {"question_id": 1, "prompt": "x"}])
def test_files_of_others_keep_their_categories(tmp_path, row):
    """Only rows like those of Spec-Bench have its eight parts."""
    found = read_prompts(write(tmp_path, row | {"category": "math"}, row | {"category": "coding"}))
    assert [(w.category, w.part) for w in found] == [("math", "math"), ("coding", "coding")]


def test_a_json_array_is_read_entry_by_entry(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"prompt": "a"}, {"prompt": "b"}], indent=2))
    assert [w.messages[0]["content"] for w in read_prompts(path)] == ["a", "b"]
    path.write_text('[{"prompt": "a"}, 5]')
    with pytest.raises(BadInputError, match=r"p\.json, entry 2: not a JSON object"):
        read_prompts(path)


def test_the_mark_that_some_editors_put_in_front_is_no_text(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n')
    assert [w.messages[0]["content"] for w in read_prompts(path)] == ["a"]


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
    for name, message in (("missing", "No such file"), ("binary", "it is not UTF-8 text"), (".", "Is a directory")):
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
