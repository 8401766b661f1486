"""The race in the playground, and what it says in the end."""

from __future__ import annotations

import json
import re

from fake_server import TEXT
from playground_tools import choose_race, expect, run, wait_for_end


def test_race_ends_in_a_verdict_and_can_be_watched_again(page, server):
    server.script.step_seconds = 0.02
    choose_race(page)
    run(page)
    headline = page.locator(".headline").inner_text()
    assert (found := re.fullmatch(r"Same text, (\d\.\d)× as fast", headline))
    assert float(found[1]) > 1.3  # the script gives 2.3 tokens a step
    assert page.locator(".lane .text").all_inner_texts() == [TEXT, TEXT]
    assert page.locator(".lane h2").all_inner_texts() == ["Plain decoding", "Copy from the text"]
    assert page.locator("#fairness").is_visible()
    assert page.locator("#chart .curve").count() == 2
    methods = [(body["speculative"]["method"], body["max_completion_tokens"]) for body in server.script.requests]
    assert methods == [("none", 1), ("none", 160), ("prompt_lookup", 160)]  # the prompt is read once before
    assert len({body.get("seed") for body in server.script.requests[1:]}) == 1
    assert server.script.requests[1]["seed"] is not None

    clocks = page.locator(".clock").all_inner_texts()
    page.get_by_role("button", name="Watch both again").click()
    expect(page.locator("#stop")).to_be_visible()
    wait_for_end(page)
    assert page.locator(".lane .text").all_inner_texts() == [TEXT, TEXT]
    assert page.locator(".clock").all_inner_texts() == clocks
    assert len(server.script.requests) == 3


def test_a_race_is_replayed_side_by_side_by_itself(page, server):
    """The lanes are recorded one after the other; then both run at once, each at its own pace."""
    server.script.step_seconds = 0.06
    choose_race(page)
    page.locator("#prompt").fill("hello")
    page.locator("#run").click()
    expect(page.locator(".headline")).to_be_visible()
    expect(page.locator(".lane.running")).to_have_count(2)
    page.keyboard.press("Escape")
    wait_for_end(page)
    assert page.locator(".lane .text").all_inner_texts() == [TEXT, TEXT]
    first, second = (page.locator(".lane").nth(i).bounding_box() for i in range(2))
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] <= second["x"]


def test_a_race_that_was_not_won_is_said_neutrally(page, server):
    judge = """async ([a, b]) => { const { judge } = await import('/static/js/race.js');
      return judge({ text: 'x', title: 'A', seconds: a }, { text: 'x', title: 'B', seconds: b }); }"""
    for first, second, tone, headline in (
        (2.0, 1.0, "", "Same text, 2.0× as fast"),
        (1.0, 1.0, "neutral", "Same text, about as fast"),
        (1.0, 1.5, "neutral", "Same text, not faster this time"),
    ):
        found = page.evaluate(judge, [first, second])
        assert (found["tone"], found["headline"]) == (tone, headline)
    assert found["details"].startswith("A: 1.00 s. B: 1.50 s. Drafting pays off where")


def test_names_in_the_race_chart_do_not_overprint(page, server):
    choose_race(page)
    run(page)
    boxes = [page.locator(f".racers .racer-{i}").bounding_box() for i in range(2)]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] or boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert boxes[1]["y"] + boxes[1]["height"] <= page.locator("#chart svg").bounding_box()["y"] + 1


def test_one_answer_can_be_raced_against_plain_decoding(page, server):
    run(page)
    assert re.fullmatch(r"\d\.\d tokens per step", page.locator(".headline").inner_text())
    page.get_by_role("button", name="Race against plain decoding").click()
    expect(page.locator(".headline")).to_contain_text("Same text")
    wait_for_end(page)
    assert [body["speculative"]["method"] for body in server.script.requests] == ["prompt_lookup", "none", "none", "prompt_lookup"]


def test_race_says_where_texts_differ(page, server):
    server.script.other_text = TEXT.replace("of wood", "of straw")
    choose_race(page)
    run(page)
    assert page.locator(".headline").inner_text() == "The texts differ"
    assert f"From character {TEXT.index('wood') + 1} on" in page.locator("#verdict").inner_text()


def test_a_race_compares_calls_of_tools(page):
    def answer(route):
        city = "Paris" if route.request.post_data_json["speculative"]["method"] == "none" else "Rome"
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        choice = {"delta": {"tool_calls": [{"index": 0, "function": function}]}, "finish_reason": "tool_calls"}
        route.fulfill(body=f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n")

    page.route("**/v1/chat/completions", answer)
    choose_race(page)
    page.locator("#prompt").fill("How is the weather?")
    page.locator("#run").click()
    expect(page.locator(".headline")).to_have_text("The texts differ")
    expect(page.locator(".lane .text")).to_have_text(['weather{"city": "Paris"}', 'weather{"city": "Rome"}'])
    expect(page.locator(".lane .note").first).to_contain_text("The model calls a tool")


def test_stopping_a_replay_leaves_whole_texts(page, server):
    server.script.step_seconds = 0.05
    choose_race(page)
    run(page)
    page.get_by_role("button", name="Watch both again").click()
    page.locator("#stop").click()
    wait_for_end(page)
    assert page.locator(".lane .text").all_inner_texts() == [TEXT, TEXT]
