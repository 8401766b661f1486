"""`--trace` and `outpace report`: from a command to a page, and what is refused."""

import json
from html.parser import HTMLParser

import pytest
from cli_tools import call, one_error_line


def test_generate_writes_a_trace_and_report_reads_it(toy_llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("generate", "abc abc abc abc", "--max-tokens", "12", "--trace", "t.jsonl", "--trace-text", "--drafter", "blind")
    assert result.exit_code == 0, result.output
    header, *steps = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert (header["model"], header["precision"], header["has_text"]) == ("toy", "f32", True)
    text = "".join(token["text"] for step in steps for answer in step["answers"] for token in answer["tokens"])
    assert result.stdout.strip("\n") in text + "\n"
    assert call("report", "t.jsonl").stdout == "t.html\n"
    page = (tmp_path / "t.html").read_text()
    assert "1 request, 12 tokens in" in page
    assert "Where the time of a step goes" in page


def test_a_trace_that_cannot_be_written_is_refused_before_anything_runs(toy_llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no folder" in one_error_line(call("generate", "abc", "--trace", "nowhere/t.jsonl"))
    assert one_error_line(call("generate", "abc", "--trace-text")) == "--trace-text needs --trace"
    assert "is a folder" in one_error_line(call("serve", "--trace", str(tmp_path)))


class Outside(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href") and not value.startswith("#")]
        self.found += [tag] if tag in ("script", "link", "iframe") else []


def bench(*options):
    return call("bench", "--prompts", "good.jsonl", "--max-tokens", "24", "--drafters", "blind,prompt_lookup", *options)


def test_bench_writes_a_page_that_needs_no_network(files, toy_llm):
    result = bench("--report", "out.html", "--json", "out.json", "--trace", "t.jsonl")
    assert result.exit_code == 0, result.output
    page = (files / "out.html").read_text()
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert "@import" not in page
    assert "url(" not in page
    for heading in (
        "Speed by drafter",
        "Speed by kind of prompt",
        "Acceptance by position",
        "Cost of a forward pass",
        "Where the time of a step",
    ):
        assert f"<h2>{heading}" in page
    assert "When not to use it" in page
    assert call("report", "out.json", "--out", "again.html").exit_code == 0
    assert (files / "again.html").read_text() == page
    assert call("report", "t.jsonl").exit_code == 0
    drafters = {answer["drafter"] for line in (files / "t.jsonl").read_text().splitlines()[1:] for answer in json.loads(line)["answers"]}
    assert drafters == {"none", "blind", "prompt_lookup"}


def test_several_temperatures_have_one_page(files, toy_llm):
    assert bench("--temperature", "0,0.8", "--seeds", "2", "--report", "out.html").exit_code == 0
    page = (files / "out.html").read_text()
    assert "prompt_lookup at 0.8" in page
    assert "blind at 0" in page


def test_text_of_others_cannot_become_markup(files, toy_llm):
    bench("--json", "out.json")
    document = json.loads((files / "out.json").read_text())
    document["model"] = "<script>alert(1)</script>"
    (files / "out.json").write_text(json.dumps(document))
    call("report", "out.json")
    assert "<script" not in (files / "out.html").read_text()


@pytest.mark.parametrize(
    ("file", "message"),
    [("text.json", "not JSON"), ("good.json", "no document of outpace bench"), ("none.json", "cannot read"), ("list.json", "no document")],
)
def test_what_is_no_result_is_refused(files, file, message):
    assert message in one_error_line(call("report", file))
    assert not (files / file).with_suffix(".html").exists()


def test_a_report_does_not_overwrite_what_it_reads(files):
    assert "would be overwritten" in one_error_line(call("report", "good.json", "--out", "good.json"))


def test_a_server_under_load_has_no_trace_here(files):
    assert "outpace serve --trace" in one_error_line(call("bench", "--server", "--trace", "t.jsonl"))
