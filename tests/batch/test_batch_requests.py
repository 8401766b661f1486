"""Lines of batch files: what is understood, what is refused and with which words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.batch.answer_log import AnswerLog, json_line
from outpace.batch.requests import BadLine, BatchRequest, BatchSettings, read_requests
from outpace.errors import BadInputError
from outpace.params import SamplingParams, StructuredOutput

SETTINGS = BatchSettings("toy", SamplingParams(max_tokens=7))


def read(tmp_path, *rows, settings=SETTINGS):
    """The entries of a file with these lines: objects, texts or bytes."""
    lines = [row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    return list(read_requests(path, settings))


def test_the_forms_of_a_line(tmp_path):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    body = {"model": "x", "messages": chat, "max_completion_tokens": 3, "temperature": 0.5, "seed": 9, "n": 1}
    entries = read(
        tmp_path,
        {"prompt": "abc", "id": "a", "topic": "free"},
        "",
        {"messages": chat, "sampling_params": {"max_tokens": 2}},
        {"turns": ["one", "two"]},
        {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "d", "url": "/v1/completions", "body": {"prompt": "raw"}},
    )
    assert [type(entry) for entry in entries] == [BatchRequest] * 5
    first, second, third, fourth, fifth = entries
    assert (first.number, first.id, first.prompt) == (1, "a", [{"role": "user", "content": "abc"}])
    assert (second.number, second.id, second.prompt, second.sampling_params.max_tokens) == (3, 3, chat, 2)
    assert third.prompt == [{"role": "user", "content": "one"}]
    params = fourth.sampling_params
    assert (fourth.id, params.max_tokens, params.temperature, params.seed, fourth.url) == ("c", 3, 0.5, 9, "/v1/chat/completions")
    assert (fifth.prompt, fifth.sampling_params.max_tokens) == ("raw", 7)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nope", "not JSON"),
        ("[1]", "not a JSON object"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        ({"text": "abc"}, "needs a non-empty 'prompt'"),
        ({"prompt": "  "}, "needs a non-empty 'prompt'"),
        ({"prompt": "a", "sampling_params": 3}, "sampling_params is not an object"),
        ({"prompt": "a", "sampling_params": {"max_tokens": 0}}, "max_tokens must be an integer"),
        ({"prompt": "a", "sampling_params": {"max_token": 1}}, "no parameter 'max_token'"),
        ({"prompt": "a", "sampling_params": {"n": 2}}, "n cannot be used in a batch"),
        ({"prompt": "a", "sampling_params": {"response_format": "json"}}, "response_format has a type"),
        ({"prompt": "a", "sampling_params": {"response_format": {"type": "json_schema"}}}, "a JSON schema is an object"),
        ({"body": {"messages": [{"role": "user", "content": "a"}], "n": 2}}, "n must be 1"),
        ({"body": {"messages": [{"role": "user", "content": "a"}], "tools": []}}, "no parameter 'tools'"),
        ({"url": "/v1/embeddings", "body": {"input": "a"}}, "url must be one of"),
        ({"body": [1]}, "body is not an object"),
        ({"body": {"prompt": "chat has messages"}}, "needs a non-empty"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, line, message):
    before, bad, after = read(tmp_path, {"prompt": "a"}, line, {"prompt": "b"})
    assert isinstance(before, BatchRequest)
    assert isinstance(after, BatchRequest)
    assert isinstance(bad, BadLine)
    assert bad.number == 2
    assert bad.error.startswith("in.jsonl:2: ")
    assert message in bad.error


def test_keys_follow_everything_that_the_answer_depends_on(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "a", "id": 7}, {"prompt": "b"}, {"prompt": "a", "sampling_params": {"max_tokens": 3}}]
    one, same, other, short = (entry.key for entry in read(tmp_path, *rows))
    assert one == same
    assert len({one, other, short}) == 3
    (model,) = read(tmp_path, rows[0], settings=BatchSettings("another", SETTINGS.sampling_params))
    (raw,) = read(tmp_path, rows[0], settings=BatchSettings("toy", SETTINGS.sampling_params, is_raw=True))
    assert len({one, model.key, raw.key}) == 3


def test_sampled_lines_have_seeds_of_their_own(tmp_path):
    settings = BatchSettings("toy", SamplingParams(temperature=1.0, seed=40))
    entries = read(tmp_path, {"prompt": "a"}, {"prompt": "a"}, {"prompt": "a", "sampling_params": {"seed": 3}}, settings=settings)
    assert [entry.sampling_params.seed for entry in entries] == [40, 41, 3]
    assert len({entry.key for entry in entries}) == 3


def test_forms_of_answers(tmp_path):
    """Those of the command hold for every line, and a line may have its own."""
    settings = BatchSettings("toy", SamplingParams(structured=StructuredOutput("choice", ["yes", "no"])))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "a"}], "response_format": form}
    common, own, text, openai = read(
        tmp_path,
        {"prompt": "a"},
        {"prompt": "a", "sampling_params": {"response_format": {"type": "json_object"}}},
        {"prompt": "a", "sampling_params": {"response_format": {"type": "text"}}},
        {"body": body},
        settings=settings,
    )
    assert common.sampling_params.structured == settings.sampling_params.structured
    assert own.sampling_params.structured == StructuredOutput("json_object")
    assert text.sampling_params.structured is None
    assert openai.sampling_params.structured == StructuredOutput("json_schema", schema)
    assert len({entry.key for entry in (common, own, text, openai)}) == 4


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(BadInputError, match="cannot read"):
        list(read_requests(tmp_path, SETTINGS))


@given(st.binary(max_size=200).filter(lambda data: data.strip()))
def test_any_bytes_give_one_entry_a_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(data)
    entries = list(read_requests(path, SETTINGS))
    assert [entry.number for entry in entries] == [number for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=6), st.integers(0, 30))
def test_the_log_gives_back_what_it_got_and_drops_a_line_that_was_cut(tmp_path_factory, answers, cut):
    path = tmp_path_factory.getbasetemp() / "log"
    path.unlink(missing_ok=True)
    with AnswerLog(path) as log:
        for key, text in answers.items():
            log.add(key, {"text": text})
            log.add(key, {"text": "a second answer"})
    tail = json_line({"key": "cut off", "answer": {}})[:-1][: cut + 1]
    path.write_bytes(path.read_bytes() + tail)
    with AnswerLog(path) as log:
        assert set(log) == set(answers)
        log.add("new", {"text": "n"})
        assert {key: log.get(key)["text"] for key in log} == {**answers, "new": answers.get("new", "n")}


def test_a_damaged_line_of_the_log_is_left_out(tmp_path):
    (tmp_path / "log").write_bytes(b'garbage\n[1]\n{"key": "a", "answer": {"text": "x"}}\n')
    with AnswerLog(tmp_path / "log") as log:
        assert list(log) == ["a"]
        assert log.get("a") == {"text": "x"}


def test_half_of_a_surrogate_pair_is_written_as_json():
    assert json.loads(json_line({"text": "é\ud800"})) == {"text": "é\ud800"}
    assert "é".encode() in json_line({"text": "é"})
