"""A trace file in the playground: its steps can be walked like those of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playground_tools import expect, run

from outpace.trace.recorder import recording


@pytest.fixture
def trace(make_toy, tmp_path) -> Any:
    """Writes a trace of two requests; returns its path and their outputs."""
    llm = make_toy(toy={"sharpness": 20.0})

    def write(with_text: bool) -> tuple[Path, Any]:
        path = tmp_path / "t.jsonl"
        with recording(llm.engine, path, {"model": "toy"}, llm.tokenizer.token_text if with_text else None):
            return path, llm.generate(["abc abc abc", "hello hello"], {"max_tokens": 30}, speculative_config="suffix")

    return write


def open_trace(page: Any, path: Path) -> None:
    page.locator("#trace-file").set_input_files(path)


def test_a_trace_is_shown_like_an_answer(page, trace):
    path, outputs = trace(True)
    open_trace(page, path)
    expect(page.locator("#verdict .headline")).to_have_text("2 requests in t.jsonl")
    assert page.locator(".lane .text").inner_text().strip() == outputs[0].text.strip()
    assert page.locator(".lane .step").count() == outputs[0].stats.num_steps
    assert page.locator("[data-figure=tokens]").inner_text() == "30"
    kept = f"{outputs[0].stats.num_accepted_tokens} of {outputs[0].stats.num_draft_tokens}"
    assert page.locator("[data-figure=kept]").inner_text() == kept
    expect(page.locator("#viewer")).to_be_visible()
    before = page.locator("#viewer-title").inner_text()
    page.locator("#tree").press("End")
    assert (
        page.locator("#viewer-title").inner_text() == f"Step {outputs[0].stats.num_steps} of {outputs[0].stats.num_steps}, Repeat passages"
    )
    page.locator("#tree").press("Home")
    assert page.locator("#viewer-title").inner_text().startswith("Step 1 of")
    assert before.endswith("Repeat passages")

    page.get_by_label("Request of the trace").select_option("1")
    assert page.locator(".lane .text").inner_text().strip() == outputs[1].text.strip()
    expect(page.get_by_label("Request of the trace")).to_be_visible()


def test_a_trace_without_texts_shows_the_shape_of_its_drafts(page, trace):
    path, outputs = trace(False)
    open_trace(page, path)
    expect(page.locator("#verdict")).to_contain_text("it has no texts")
    assert page.locator(".lane .text").inner_text() == "•" * 30
    assert page.locator(".lane .step").count() == outputs[0].stats.num_steps
    expect(page.locator("#tree svg")).to_be_visible()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "This is not a trace"),
        ('{"a": 1}\n', "This is not a trace"),
        ('{"trace": 99}\n', "another version"),
        ('{"trace": 1}\n', "no step"),
    ],
)
def test_what_is_no_trace_is_said_to_be_none(page, tmp_path, text, words):
    (tmp_path / "bad.jsonl").write_text(text)
    open_trace(page, tmp_path / "bad.jsonl")
    expect(page.locator("#problem")).to_contain_text(words)
    expect(page.locator("#welcome")).to_be_visible()
    run(page)  # the page goes on
    expect(page.locator("#problem")).to_be_hidden()
