"""An answer in the playground: its colours, the step viewer and the race."""

from __future__ import annotations

from fake_server import TEXT
from playground_tools import SLOW, WORDS, expect, run


def test_an_answer_streams_in_with_its_colours(page, server):
    run(page)
    assert page.locator(".lane .text").inner_text() == TEXT
    body = server.script.requests[0]
    assert body["messages"] == [{"role": "user", "content": "Tell me about lighthouses."}]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["speculative"] == {"method": "prompt_lookup", "trace": True}
    assert (body["model"], body["max_completion_tokens"], body["temperature"]) == ("toy-1b", 160, 0)
    assert "seed" not in body

    first, second, third = (page.locator(".step").nth(i).locator(".token") for i in range(3))
    assert [token.get_attribute("class") for token in first.all()] == ["token guess", "token guess", "token corrected"]
    assert [token.get_attribute("class") for token in second.all()] == ["token guess", "token guess", "token bonus"]
    assert [token.get_attribute("class") for token in third.all()] == ["token plain"]
    legend = page.locator("#legend dt").all_inner_texts()
    assert legend == ["Copy from the text", "Repeat passages", "two colours", "corrected", "bonus", "plain", "rejected", ""]
    assert all(meaning.endswith(".") for meaning in page.locator("#legend dd").all_inner_texts())
    kinds = {(e.get_attribute("class") or "").replace(" blank", "") for e in page.locator(".lane .token").all()}
    explained = {e.get_attribute("class") for e in page.locator("#legend .token").all()}
    assert kinds <= explained  # every mark in the text is explained
    lookup, suffix = (page.locator("#legend .guess").nth(i).evaluate("e => getComputedStyle(e).backgroundImage") for i in range(2))
    assert lookup != suffix
    assert page.locator("[data-figure=tokens]").inner_text() == str(len(WORDS))
    assert page.locator("#chart .bar").count() == page.locator(".step").count()
    assert page.locator(".note").inner_text() == "Ended at the length you asked for."


def test_text_appears_while_it_is_written(page, server):
    server.script.step_seconds = SLOW
    page.locator("#prompt").fill("hello")
    page.locator("#run").click()
    expect(page.locator(".step")).not_to_have_count(0)
    expect(page.locator("#stop")).to_be_visible()
    before = float(page.locator(".clock").inner_text().removesuffix(" s"))
    page.wait_for_timeout(150)
    assert float(page.locator(".clock").inner_text().removesuffix(" s")) > before
    assert page.locator(".lane .text").inner_text() != TEXT


def test_settings_reach_the_server(page, server):
    page.locator("#drafter").select_option("other…")
    page.locator("#drafter-spec").fill("suffix+recycling")
    page.locator("#length").fill("5")
    page.locator("#temperature").fill("0.8")
    page.locator("#seed").fill("7")
    run(page)
    body = server.script.requests[0]
    assert body["speculative"]["method"] == "suffix+recycling"
    assert (body["max_completion_tokens"], body["temperature"], body["seed"]) == (5, 0.8, 7)
    assert page.locator(".lane .text").inner_text() == " ".join(WORDS[:5])


def test_rejected_guesses_are_struck_out_where_the_pointer_is(page):
    run(page)
    card = page.locator(".step-card")
    page.locator(".step").first.hover()
    expect(card).to_be_visible()
    struck = card.locator(".rejected")
    assert struck.all_inner_texts() == ["·wrong", "·guess", "·other"]
    assert "line-through" in struck.first.evaluate("e => getComputedStyle(e).textDecorationLine")
    page.locator("h2").last.hover()
    expect(card).to_be_hidden()


def test_text_from_a_server_without_traces_is_shown(page):
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body='data: {"choices":[{"delta":{"content":"Hi <b>"}}]}\n\ndata: [DONE]')
    )
    page.locator("#prompt").fill("x")
    page.locator("#run").click()
    expect(page.locator(".lane .text")).to_have_text("Hi <b>")


# ---- the step viewer


def test_step_viewer_walks_with_the_arrow_keys(page):
    run(page)
    page.locator("#tree").focus()
    page.keyboard.press("Home")
    expect(page.locator("#viewer-title")).to_contain_text("Step 1 of")
    assert page.locator("#caption").inner_text() == "5 draft tokens, 2 accepted; corrected to “·lighthouse”. 3 tokens in 5.0 ms."
    states = [node.get_attribute("class").removeprefix("node ") for node in page.locator("#tree .node").all()]
    assert sorted(states) == ["accepted", "accepted", "own", "rejected", "rejected", "rejected", "root"]
    assert page.locator("#tree .small").all_text_contents() == ["90%", "40%", "20%", "10%", "corrected"]
    assert page.locator("#tree title").nth(1).text_content() == '"The", accepted, drafted by Copy from the text, confidence 90%'
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text("2 draft tokens, 2 accepted; bonus token")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text("no draft; the model’s own")
    page.keyboard.press("End")
    expect(page.locator("#next")).to_be_disabled()
    page.locator("#previous").click()
    expect(page.locator("#next")).to_be_enabled()
    page.locator("#step").fill("2")
    expect(page.locator("#viewer-title")).to_contain_text("Step 2 of")
    assert page.locator(".step.chosen").get_attribute("data-index") == "1"


def test_a_click_on_a_token_or_a_bar_chooses_its_step(page):
    run(page)
    page.locator(".step").nth(3).click()
    expect(page.locator("#viewer-title")).to_contain_text("Step 4 of")
    page.locator("#chart .bar rect").first.click(force=True)
    expect(page.locator("#viewer-title")).to_contain_text("Step 1 of")
    assert page.locator("#chart .bar.chosen").count() == 1


def test_traces_are_read_as_the_engine_means_them(page):
    """Unconfirmed tokens are right but not in the text yet; the model's own tokens of the step before may be verified again."""
    draft = {"tokens": ["a", "b", "c"], "parents": [-1, -1, 1], "confidences": [None, None, 0.5], "sources": ["", "x", "x"]}
    held = {"step": 1, "milliseconds": 1, "tokens": [{"text": "b", "source": "x"}], "draft": {**draft, "accepted": [1, 2]}}
    again = {
        "step": 2,
        "milliseconds": 1,
        "tokens": [{"text": "a", "source": ""}, {"text": "z", "source": ""}],
        "draft": {**draft, "accepted": [0]},
    }
    read = "async (trace) => { const s = await import('/static/js/steps/steps.js'); const step = s.readStep(trace); "
    read += "return [step, s.describe(step)]; }"
    step, words = page.evaluate(read, held)
    assert [node["state"] for node in step["nodes"]] == ["rejected", "accepted", "held"]
    assert words == "2 draft tokens, 1 accepted; 1 more right, unconfirmed until the next step. 1 token in 1.0 ms."
    step, words = page.evaluate(read, again)
    assert words == "2 draft tokens, 0 accepted; 1 unconfirmed from the step before; bonus token “z”. 2 tokens in 1.0 ms."
    assert [token["kind"] for token in step["tokens"]] == ["again", "bonus"]


def test_events_are_read_however_the_bytes_are_cut(page):
    read = """async (size) => {
      const { events } = await import('/static/js/sse.js');
      const bytes = new TextEncoder().encode('data: {"a": "é"}\\r\\n\\r\\n: comment\\n\\ndata: one\\ndata: two\\n\\ndata: [DONE]');
      const body = new ReadableStream({ start(c) {
        for (let i = 0; i < bytes.length; i += size) c.enqueue(bytes.slice(i, i + size));
        c.close(); } });
      const found = []; for await (const event of events(body)) found.push(event); return found; }"""
    for size in (1, 2, 3, 1000):
        assert page.evaluate(read, size) == ['{"a": "é"}', "one\ntwo", "[DONE]"]
