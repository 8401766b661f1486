"""The page of a benchmark: what its sections say of a document, and when it advises against drafting."""

import json
from pathlib import Path

import pytest

from outpace.bench.page.advice import advice
from outpace.bench.page.render import _spec, page
from outpace.bench.page.results_view import headline, result_sections, rows_of
from outpace.bench.page.sections import Bar, bars, pass_section

RESULTS = Path(__file__).parents[3] / "docs" / "results"


def row(drafter="auto", category="all", speedup=1.5, low=1.3, high=1.7, **other):
    facts = {"num_prompts": 20, "num_tokens": 900, "tokens_per_second": 30.0 * speedup, "tokens_per_step": 2.0, "num_identical": 20}
    doubts = {"num_failed": 0, "error": None, "noise": None}
    return {"drafter": drafter, "category": category, "speedup": speedup, "low": low, "high": high, **facts, **doubts, **other}


def document(*rows, **other):
    settings = {"precision": "int4", "num_prompts": 20, "temperature": 0.0, "max_tokens": 64, "concurrency": 1, "repeats": 1}
    plain = row("none", speedup=1.0, low=1.0, high=1.0)
    costs = [{"num_tokens": 2, "milliseconds": 10.0}, {"num_tokens": 8, "milliseconds": 12.0}]
    return {
        "model": "m",
        "machine": {"cpu": "c", "cores": 2},
        "settings": settings,
        "verify_cost": costs,
        "results": [plain, *rows],
        **other,
    }


def section(found, id):
    return next(part for part in result_sections(found) if part.id == id)


def advice_of(found):
    return " ".join(advice(found, rows_of(found)))


def test_bars_share_one_scale_that_holds_intervals_and_the_line():
    found = bars("x", "t", "l", [Bar("a", 2.0, "2", 1.0, 4.0), Bar("b", 1.0, "1")], mark=3.0)
    a, b = found.rows
    assert a.share == pytest.approx(2 * b.share, abs=0.02)
    assert (a.left, a.share, found.mark, a.right) == pytest.approx((24.04, 48.08, 72.12, 96.15), abs=0.01)
    assert bars("x", "t", "l", [Bar("none", 0.0, "")]).rows[0].share == 0.0


def test_the_headline_is_the_best_that_can_be_trusted():
    words, tone = headline(document(row(), row("suffix", speedup=1.9, noise="of the load"), row("blind", speedup=0.8, low=0.7, high=0.9)))
    assert words.startswith("auto: 1.50 times plain decoding (95% interval 1.30 to 1.70), 45.0 tokens/s; 20 of 20 answers")
    assert tone == "good"
    words, tone = headline(document(row(noise="other programs took 30% of the CPU")))
    assert (words, tone) == ("Nothing can be said of speed: other programs took 30% of the CPU.", "neutral")
    words, tone = headline(document(row(low=None, high=None)))  # as earlier versions wrote them
    assert (words.split(", ")[0], tone) == ("auto: 1.50 times plain decoding", "neutral")
    assert headline(document())[0] == "No drafter was measured."


def test_a_slow_drafter_a_noisy_run_and_a_changed_token_are_advised_against():
    slow = advice_of(document(row("blind", speedup=0.8, low=0.7, high=0.9)))
    assert "blind is slower than plain decoding here (0.80, 0.70 to 0.90)." in slow
    assert "No gain is certain, with these prompts, for: auto." in advice_of(document(row(speedup=1.05, low=0.9, high=1.2)))
    assert "Do not decide by these times: a storm." in advice_of(document(row(noise="a storm")))
    assert "auto gave 2 of 20 answers with other tokens" in advice_of(document(row(num_identical=18)))
    assert "auto failed and went on without drafts: oh no." in advice_of(document(row(num_failed=3, error="oh no")))


def test_kinds_without_a_certain_gain_are_named():
    rows = [row(), row(category="code", speedup=2.0, low=1.8, high=2.2), row(category="chat", speedup=1.02, low=0.9, high=1.1)]
    words = advice_of(document(*rows))
    assert "Even with auto, the best in all, no gain is certain on: chat (1.02)." in words
    table = section(document(*rows), "kinds")
    assert table.headings == ["drafter", "code", "chat"]
    code, chat = table.rows[0][1:]
    assert (code.text, code.note, code.share) == ("2.00", "1.80 to 2.20", 1.0)
    assert chat.share == 0.0  # no colour without certainty


def test_passes_that_cost_much_are_named_with_what_they_need():
    steep = document(row(), verify_cost=[{"num_tokens": 2, "milliseconds": 10.0}, {"num_tokens": 8, "milliseconds": 18.0}])
    assert "costs 1.80 times one of 2 here: 7 draft tokens pay only where at least 0.8 of them are accepted" in advice_of(steep)
    assert "A pass of 8 tokens" not in advice_of(document(row()))


def test_a_faster_peer_is_said_to_be_faster_and_a_failed_one_is_shown_as_failed():
    facts = {"category": "all", "num_prompts": 20, "speedup": 1.2, "num_identical": 19, "relative_speed": 2.0}
    fast = {"peer": "llama.cpp:ngram-mod", "tokens_per_second": 60.0, "error": None, **facts}
    failed = {"peer": "vllm:plain", "tokens_per_second": 0.0, "error": "no such module", **facts}
    found = document(row(), peers=[fast, failed])
    assert "llama.cpp:ngram-mod was faster than any drafter here: 60.0 against 45.0 tokens/s." in advice_of(found)
    shown = {bar.label: bar for bar in section(found, "peers").rows}
    assert shown["vllm:plain"].text == "failed"
    assert shown["vllm:plain"].note == "no such module"
    assert shown["llama.cpp:ngram-mod"].note == "1.20 of own plain, 19/20 the same text"
    assert shown["outpace none"].value == 30.0


def test_the_floor_of_a_pass_is_a_line_at_its_milliseconds():
    floor = {"weight_bytes": 330_000_000, "gigabytes_per_second": 33.0, "milliseconds": 10.0}
    found = pass_section([{"num_tokens": 2, "milliseconds": 20.0}], floor, "Median.")
    assert found.mark == pytest.approx(found.rows[0].share / 2, abs=0.01)
    assert "0.33 GB at the 33.0 GB/s" in found.lead
    assert pass_section([{"num_tokens": 2, "milliseconds": 20.0}], None, "Median.").mark is None


@pytest.mark.parametrize("name", ["greedy.json", "greedy-8.json", "sampled.json", "load.json", "peers/coder-1.5b.json"])
def test_documents_of_earlier_runs_can_be_read(name):
    found = json.loads((RESULTS / name).read_text("utf-8"))
    text = page(found)
    assert found["model"] in text
    assert text.count("<section") >= 2


def test_long_specs_may_break_between_their_parts_only():
    assert _spec("auto:a+b:size=<2>") == "auto:<wbr>a+<wbr>b:<wbr>size=&lt;2&gt;"
    assert '<p class="label">auto:<wbr>suffix+<wbr>recycling</p>' in page(document(row("auto:suffix+recycling")))


def test_the_steps_of_several_seeds_are_one_row_of_each_temperature():
    """The mean time by steps, the accepted share of a position by drafts; what no draft of a seed reached is 0."""

    def steps(seed, num_steps, num_drafts, forward, shares):
        times = {"draft": 1.0, "forward": forward, "verify": 0.0, "rest": 0.0}
        about = {"drafter": "auto", "temperature": 0.8, "seed": seed, "num_tokens": 30}
        return {**about, "num_steps": num_steps, "num_drafts": num_drafts, "milliseconds": times, "acceptance_by_position": shares}

    seeds = [steps(0, 10, 6, 20.0, [0.5]), steps(1, 30, 2, 40.0, [0.1, 0.4]), steps(2, 5, 0, 35.0, [])]
    greedy = {**steps(0, 10, 5, 8.0, [0.2]), "temperature": 0.0}
    found = document(row(), steps=[greedy, *seeds, {**greedy, "num_steps": 0, "drafter": "unused"}])
    (zero, more) = section(found, "time").rows
    assert (zero["label"], zero["text"]) == ("auto at 0", "9.0 ms")
    assert (more["label"], more["text"]) == ("auto at 0.8", "36.0 ms")
    assert [[cell.text for cell in cells] for cells in section(found, "positions").rows] == [
        ["auto at 0", "20%", ""],
        ["auto at 0.8", "40%", "10%"],
    ]
