"""Traces: what a line says of a step, what is left out, and reading it back."""

import logging

import pytest

from outpace.engine.step_record import PARTS
from outpace.errors import BadInputError
from outpace.trace.reader import is_trace, read_trace
from outpace.trace.recorder import recording
from outpace.trace.totals import StepTotals

PROMPTS = ["abc abc abc abc", "hello hello hello"]


@pytest.fixture
def toy_llm(make_toy):
    """Its text repeats itself, so that some draft tokens are accepted."""
    return make_toy(toy={"sharpness": 20.0})


def traced(llm, path, prompts=PROMPTS, with_text=False, drafter="prompt_lookup", **params):
    """Generate under a trace; returns the outputs."""
    with recording(llm.engine, path, {"model": llm.name}, llm.tokenizer.token_text if with_text else None):
        return llm.generate(prompts, {"max_tokens": 40, "ignore_eos": True, **params}, speculative_config=drafter)


def answers_of(trace, request):
    return [answer for step in trace.steps for answer in step["answers"] if answer["request"] == request]


def test_a_trace_has_every_step_and_every_token(toy_llm, tmp_path):
    outputs = traced(toy_llm, tmp_path / "t.jsonl")
    trace = read_trace(tmp_path / "t.jsonl")
    assert is_trace(tmp_path / "t.jsonl")
    assert (trace.about["model"], trace.about["has_text"]) == ("toy", False)
    assert [step["step"] for step in trace.steps] == list(range(1, len(trace.steps) + 1))
    assert [step["at"] for step in trace.steps] == sorted(step["at"] for step in trace.steps)
    assert sum(step["num_prompt_tokens"] for step in trace.steps) == sum(len(output.prompt_token_ids) for output in outputs) - len(outputs)
    for number, output in enumerate(outputs, 1):
        answers, stats = answers_of(trace, number), output.stats
        assert [answer["step"] for answer in answers] == list(range(1, stats.num_steps + 1))
        assert [token["source"] for answer in answers for token in answer["tokens"]] == output.sources
        assert sum(answer["num_drafted"] for answer in answers) == stats.num_draft_tokens > 0
        for answer in answers[:-1]:
            assert answer["num_accepted"] == len(answer["tokens"]) - 1
        assert sum(answer["num_accepted"] for answer in answers) == sum(bool(source) for source in output.sources) > 0
        assert [answer["finish_reason"] for answer in answers] == [None] * (len(answers) - 1) + [output.finish_reason]
        assert {answer["drafter"] for answer in answers} == {"prompt_lookup"}
    for step in trace.steps:
        assert list(step["milliseconds"]) == list(PARTS)
        assert all(value >= 0 for value in step["milliseconds"].values())
        assert step["milliseconds"]["forward"] > 0
        assert step["num_tokens"] >= step["num_prompt_tokens"] + sum(1 + answer["num_drafted"] for answer in step["answers"])


def test_texts_only_on_request_and_never_the_prompt(toy_llm, tmp_path):
    prompt = "xyzzy plugh xyzzy plugh "
    (output,) = traced(toy_llm, tmp_path / "without.jsonl", [prompt])
    without = (tmp_path / "without.jsonl").read_text()
    assert '"text"' not in without
    assert "xyzzy" not in without
    traced(toy_llm, tmp_path / "with.jsonl", [prompt], with_text=True)
    trace = read_trace(tmp_path / "with.jsonl")
    assert trace.about["has_text"] is True
    text = "".join(token["text"] for answer in answers_of(trace, 1) for token in answer["tokens"])
    assert text.replace("<end>", "") == output.text
    for answer in answers_of(trace, 1):
        draft = answer["draft"]
        assert len(draft["tokens"]) == len(draft["parents"]) == len(draft["sources"]) == len(draft["confidences"])
        accepted = [draft["tokens"][node] for node in draft["accepted"]][: len(answer["tokens"])]
        assert accepted == [token["text"] for token in answer["tokens"]][: len(accepted)]


def test_a_trace_changes_no_token(toy_llm, tmp_path):
    plain = toy_llm.generate(
        PROMPTS, {"max_tokens": 40, "ignore_eos": True, "temperature": 0.8, "seed": 3}, speculative_config="prompt_lookup"
    )
    outputs = traced(toy_llm, tmp_path / "t.jsonl", temperature=0.8, seed=3)
    assert [output.token_ids for output in outputs] == [output.token_ids for output in plain]
    assert toy_llm.engine.watchers == []


def test_paths_of_this_machine_are_not_in_a_trace(toy_llm, tmp_path):
    traced(toy_llm, tmp_path / "t.jsonl", drafter=f"suffix:memory=100:file={tmp_path}/answers+prompt_lookup")
    assert str(tmp_path) not in (tmp_path / "t.jsonl").read_text()


def test_a_watcher_that_fails_costs_no_request(toy_llm, caplog):
    calls = []

    def fail(record):
        calls.append(record)
        raise OSError("no space left")

    with caplog.at_level(logging.WARNING, "outpace"), toy_llm.engine.watched_by(fail):
        (output,) = toy_llm.generate(["abc"], {"max_tokens": 8})
    assert output.finish_reason == "length"
    assert len(calls) == 1
    assert "is told no more" in caplog.text


def test_the_sums_of_a_trace_are_those_of_the_engine(toy_llm, tmp_path):
    live = StepTotals()
    with toy_llm.engine.watched_by(live.watch):
        traced(toy_llm, tmp_path / "t.jsonl")
    read = read_trace(tmp_path / "t.jsonl").totals()["prompt_lookup"]
    assert (read.num_steps, read.num_tokens, read.num_drafts, read.num_accepted) == (
        live.num_steps,
        live.num_tokens,
        live.num_drafts,
        live.num_accepted,
    )
    for part in PARTS:
        assert read.seconds[part] == pytest.approx(live.seconds[part], abs=1e-5 * live.num_steps)


def test_positions_and_times_are_per_draft_and_per_step():
    totals = StepTotals()
    seconds = {"draft": 0.001, "forward": 0.01, "verify": 0.002, "rest": 0.003}
    totals.add(seconds, 5, [(4, 2, 3)])
    totals.add(seconds, 5, [(4, 4, 5)])
    totals.add(seconds, 1, [(0, 0, 1)])
    document = totals.document()
    assert document["acceptance_by_position"] == [1.0, 1.0, 0.5, 0.5]
    assert document["milliseconds"] == {"draft": 1.0, "forward": 10.0, "verify": 2.0, "rest": 3.0}
    assert (document["num_steps"], document["num_tokens"], document["num_drafts"]) == (3, 9, 2)
    assert totals.pass_cost(least=2) == [{"num_tokens": 5, "milliseconds": 10.0, "num_passes": 2}]


@pytest.mark.parametrize("exact_trees", [True, False])
@pytest.mark.parametrize("drafter", ["suffix", "recycling", "suffix+recycling", "auto"])
def test_no_position_is_accepted_more_often_than_drafted(make_toy, exact_trees, drafter):
    """Tokens that are confirmed one step later count once, as what their draft gained."""
    llm, totals = make_toy(toy={"sharpness": 20.0, "exact_trees": exact_trees}), StepTotals()
    accepted = []
    with llm.engine.watched_by(totals.watch), llm.engine.watched_by(lambda record: accepted.extend(record.outputs)):
        outputs = llm.generate(PROMPTS, {"max_tokens": 120, "ignore_eos": True}, speculative_config=drafter)
    shares = totals.document()["acceptance_by_position"]
    assert shares
    assert shares == sorted(shares, reverse=True)
    assert shares[0] <= 1
    assert totals.num_tokens == sum(len(output.token_ids) for output in outputs)
    assert sum(totals.num_accepted) == sum(step.num_accepted for step in accepted)
    assert all(0 <= step.num_accepted <= step.num_drafted for step in accepted)
    drafted = sum(bool(source) for output in outputs for source in output.sources)
    assert drafted <= sum(totals.num_accepted) <= drafted + sum(output.stats.num_steps for output in outputs)


# ---- files


def test_a_trace_that_was_cut_off_can_be_read(toy_llm, tmp_path):
    traced(toy_llm, tmp_path / "t.jsonl")
    text = (tmp_path / "t.jsonl").read_text()
    (tmp_path / "cut.jsonl").write_text(text[:-20])
    assert len(read_trace(tmp_path / "cut.jsonl").steps) == len(read_trace(tmp_path / "t.jsonl").steps) - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": "x"}\n', "is not a trace"),
        ('{"trace": 99}\n', "version 99"),
        ('{"trace": 1}\n{"step": 1}\n{"step": 2}\n', ":2: not a step of a trace"),
        ('{"trace": 1}\n[1]\n{}\n', ":2: not a JSON object"),
        ('{"trace": 1}\nnonsense\n{}\n', ":2: not JSON"),
        ("", "not JSON"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path, text, message):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(BadInputError, match=message):
        read_trace(tmp_path / "bad.jsonl")
