"""A batch from its inputs to its answers: each line once, whatever stops it in between."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from outpace.batch.job import LOCK, LOG, Batch, inputs_of
from outpace.batch.local import answers
from outpace.batch.requests import BatchAnswer, BatchRequest, BatchSettings
from outpace.errors import BadInputError, OutpaceError
from outpace.params import SamplingParams

SETTINGS = BatchSettings("toy", SamplingParams(max_tokens=8))


class Killed(BaseException):
    """Stands for a kill: nothing in the batch may catch it."""


class Worker:
    """Answers with the prompt in capitals; `num` answers, then it is killed. `asked` are the prompts it was given."""

    def __init__(self, num: int = 10**9):
        self.num, self.asked = num, list[str]()

    def __call__(self, requests: Iterator[BatchRequest]) -> Iterator[BatchAnswer]:
        for request in requests:
            if len(self.asked) == self.num:
                raise Killed
            prompt = request.prompt[0]["content"]
            self.asked.append(prompt)
            if prompt == "fail":
                yield BatchAnswer(request.key, None, "it fails")
            else:
                facts = {"text": prompt.upper(), "finish_reason": "stop", "seed": 0, "prompt_tokens": 1, "completion_tokens": 2}
                yield BatchAnswer(request.key, facts)


def write(path, prompts):
    path.write_text("".join(json.dumps({"prompt": prompt, "id": f"{path.stem}{i}"}) + "\n" for i, prompt in enumerate(prompts)), "utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_one_answer_per_line_in_the_order_of_the_file(tmp_path):
    paths = [write(tmp_path / "a.jsonl", ["x", "y", "x"]), write(tmp_path / "b.jsonl", ["y", "z"])]
    worker = Worker()
    summary = Batch(paths, tmp_path / "out", SETTINGS).run(worker)
    assert worker.asked == ["x", "y", "z"]  # an equal line is not run again
    assert [(row["line"], row["id"], row["text"]) for row in read(tmp_path / "out" / "a.jsonl")] == [
        (1, "a0", "X"),
        (2, "a1", "Y"),
        (3, "a2", "X"),
    ]
    assert [row["text"] for row in read(tmp_path / "out" / "b.jsonl")] == ["Y", "Z"]
    assert (summary.num_lines, summary.num_new, summary.num_errors, summary.num_tokens) == (5, 3, 0, 6)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), st.lists(st.integers(0, 5), max_size=6))
def test_killed_anywhere_it_asks_for_every_line_once(tmp_path_factory, prompts, kills):
    folder = tmp_path_factory.mktemp("killed")
    path, asked = write(folder / "in.jsonl", prompts), list[str]()
    for num in [*kills, 10**9]:
        worker = Worker(num)
        try:
            Batch([path], folder / "out", SETTINGS).run(worker)
        except Killed:
            assert not (folder / "out" / "in.jsonl").exists()  # no half of an answer file is ever seen
        asked += worker.asked
    assert sorted(asked) == sorted(set(prompts))
    assert [row["text"] for row in read(folder / "out" / "in.jsonl")] == [prompt.upper() for prompt in prompts]


def test_what_was_added_runs_and_the_rest_does_not(tmp_path):
    path, out = write(tmp_path / "in.jsonl", ["x", "y"]), tmp_path / "out"
    Batch([path], out, SETTINGS).run(Worker())
    write(path, ["new", "y", "x"])
    worker = Worker()
    summary = Batch([path], out, SETTINGS).run(worker)
    assert worker.asked == ["new"]
    assert [row["text"] for row in read(out / "in.jsonl")] == ["NEW", "Y", "X"]
    assert (summary.num_lines, summary.num_new) == (3, 1)
    never = Worker(0)
    Batch([path], out, SETTINGS).run(never)  # nothing is left to do
    other = Worker()
    Batch([path], out, BatchSettings("another model", SETTINGS.sampling_params)).run(other)
    assert other.asked == ["new", "y", "x"]


def test_errors_take_the_place_of_answers_and_are_tried_again(tmp_path):
    path, out = write(tmp_path / "in.jsonl", ["x", "fail"]), tmp_path / "out"
    path.write_text(path.read_text() + "{bad\n" + json.dumps({"custom_id": "c", "body": {}}) + "\n")
    summary = Batch([path], out, SETTINGS).run(Worker())
    good, failed, bad, openai = read(out / "in.jsonl")
    assert good["text"] == "X"
    assert failed == {"line": 2, "id": "in1", "error": "it fails"}
    assert (bad["line"], bad["id"]) == (3, 3)
    assert "not JSON" in bad["error"]
    assert (openai["custom_id"], openai["response"]["status_code"], openai["error"]["code"]) == ("c", 400, 400)
    assert (summary.num_lines, summary.num_errors) == (4, 3)
    assert [error.partition(": ")[0] for error in summary.errors] == ["in.jsonl:2", "in.jsonl:3", "in.jsonl:4"]
    worker = Worker()
    Batch([path], out, SETTINGS).run(worker)
    assert worker.asked == ["fail"]


def test_openai_lines_get_openai_answers(tmp_path):
    path = tmp_path / "in.jsonl"
    body = {"messages": [{"role": "user", "content": "hi"}]}
    path.write_text(json.dumps({"custom_id": "q", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    Batch([path], tmp_path / "out", SETTINGS).run(Worker())
    (row,) = read(tmp_path / "out" / "in.jsonl")
    assert (row["custom_id"], row["error"], row["response"]["status_code"]) == ("q", None, 200)
    answer = row["response"]["body"]
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "HI"}
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_a_second_answer_to_one_request_is_dropped(tmp_path):
    def twice(requests):
        for answer in Worker()(requests):
            yield answer
            yield BatchAnswer(answer.key, {**answer.answer, "text": "second"})

    path = write(tmp_path / "in.jsonl", ["x"])
    assert Batch([path], tmp_path / "out", SETTINGS).run(twice).num_new == 1
    assert read(tmp_path / "out" / "in.jsonl")[0]["text"] == "X"


def test_a_worker_that_loses_a_request_is_noticed(tmp_path):
    path = write(tmp_path / "in.jsonl", ["x", "y"])
    with pytest.raises(OutpaceError, match="1 of 2 requests have no answer"):
        Batch([path], tmp_path / "out", SETTINGS).run(lambda requests: list(Worker()(requests))[:1])
    assert not (tmp_path / "out" / "in.jsonl").exists()


def test_an_input_that_changes_meanwhile_is_noticed(tmp_path):
    path = write(tmp_path / "in.jsonl", ["x"])

    def changing(requests):
        for answer in Worker()(requests):
            write(path, ["x", "y"])
            yield answer

    with pytest.raises(OutpaceError, match="has changed"):
        Batch([path], tmp_path / "out", SETTINGS).run(changing)


def test_two_batches_do_not_share_a_folder(tmp_path):
    path, out = write(tmp_path / "in.jsonl", ["x"]), tmp_path / "out"
    out.mkdir()
    with FileLock(out / LOCK), pytest.raises(OutpaceError, match="another batch"):
        Batch([path], out, SETTINGS).run(Worker())
    Batch([path], out, SETTINGS).run(Worker())
    assert (out / LOG).exists()


def test_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "e").mkdir()
    for name in ("d/b.jsonl", "d/a.jsonl", "d/c.txt", "e/a.jsonl"):
        write(tmp_path / name, ["x"])
    assert [path.name for path in inputs_of(["d"])] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in inputs_of(["d/*.jsonl", "d/a.jsonl"])] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in inputs_of([str(tmp_path / "d" / "*.txt")])] == ["c.txt"]
    for wrong, words in (("none.jsonl", "no file"), ("d/*.csv", "no files match"), ("f", "no file")):
        with pytest.raises(BadInputError, match=words):
            inputs_of([wrong])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="files in empty"):
        inputs_of(["empty"])
    with pytest.raises(BadInputError, match="two inputs are called a"):
        Batch(inputs_of(["d", "e"]), tmp_path / "out", SETTINGS)
    with pytest.raises(BadInputError, match="would replace the input"):
        Batch(inputs_of(["d"]), tmp_path / "d", SETTINGS)


@pytest.mark.parametrize("max_num_seqs", [1, 3])
def test_the_llm_answers_as_it_does_alone(tmp_path, make_toy, max_num_seqs):
    llm = make_toy("blind", engine={"max_num_seqs": max_num_seqs})
    prompts = [f"prompt {letter} and" for letter in "abcdefghij"]
    path = write(tmp_path / "in.jsonl", [*prompts, "a" * 500])
    summary = Batch([path], tmp_path / "out", SETTINGS).run(lambda requests: answers(llm, requests))
    *rows, long = read(tmp_path / "out" / "in.jsonl")
    for prompt, row in zip(prompts, rows, strict=True):
        (alone,) = llm.chat([{"role": "user", "content": prompt}], SETTINGS.sampling_params)
        assert (row["text"], row["finish_reason"]) == (alone.text, alone.finish_reason)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (len(alone.prompt_token_ids), len(alone.token_ids))
    assert "the prompt has 500 tokens" in long["error"]
    assert summary.num_errors == 1
    assert not llm.engine.scheduler.running


def test_stopped_early_nothing_is_left_running(make_toy):
    llm = make_toy()
    requests = [BatchRequest(i, i, "abc", SamplingParams(max_tokens=20 + i), str(i)) for i in range(40)]
    stream = answers(llm, iter(requests))
    next(stream)
    stream.close()
    assert not llm.engine.scheduler.running
    assert not llm.engine.scheduler.waiting
