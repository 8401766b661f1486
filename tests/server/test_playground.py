"""The playground in a real browser: Debian's chromium, driven by playwright, against a scripted server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import STATIC, TEXT, FakeServer, Script

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'outpace[dev]'")
expect = playwright.expect

CHROMIUM = "/usr/bin/chromium"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
FLAGS += " --disable-background-networking --disable-component-update --disable-sync"
REFUSED = "Failed to load resource"  # what the browser itself logs about an answer that is an error
WORDS = TEXT.split(" ")
SLOW = 0.15  # seconds a step: time enough to press a button

if not Path(CHROMIUM).exists():
    pytest.skip("chromium is missing: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the console complained about; a test that means to cause errors empties it."""
    return []


@pytest.fixture
def page(browser, server, complaints) -> Iterator[Any]:
    """The page on a desktop; no test may leave an error in the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = open_page(context, server.url, complaints)
    yield page
    context.close()
    assert complaints == []


def open_page(context: Any, url: str, complaints: list[str]) -> Any:
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    expect(page.locator("#server")).to_have_text("toy-1b")
    return page


def run(page: Any, prompt: str = "Tell me about lighthouses.") -> None:
    """Types a prompt, runs it and waits for the end."""
    page.locator("#prompt").fill(prompt)
    page.locator("#run").click()
    wait_for_end(page)


def wait_for_end(page: Any) -> None:
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()


def choose_race(page: Any) -> None:
    page.locator(".modes").get_by_text("Race").click()


# ---- an answer


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
    legend = page.locator("#legend").inner_text().split()
    assert legend == ["prompt_lookup", "suffix", "corrected", "bonus", "rejected"]
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
    assert page.locator("#caption").inner_text() == "5 guesses, 2 kept; corrected to “·lighthouse”. 3 tokens in 5.0 ms."
    states = [node.get_attribute("class").removeprefix("node ") for node in page.locator("#tree .node").all()]
    assert sorted(states) == ["accepted", "accepted", "own", "rejected", "rejected", "rejected", "root"]
    assert page.locator("#tree .small").all_text_contents() == ["90%", "40%", "20%", "10%", "corrected"]
    assert page.locator("#tree title").nth(1).text_content() == '"The", accepted, guessed by prompt_lookup, chance 90%'
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text("2 guesses, 2 kept; bonus token")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text("no guess; the model’s own")
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
    """Held guesses are right but not in the text yet; the model's own tokens of the step before may be checked again."""
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
    assert words == "2 guesses, 1 kept; 1 more right, held over to the next step. 1 token in 1.0 ms."
    step, words = page.evaluate(read, again)
    assert words == "2 guesses, 0 kept; 1 held over from the step before; bonus token “z”. 2 tokens in 1.0 ms."
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


# ---- the race


def test_race_ends_in_a_verdict_and_can_be_watched_again(page, server):
    server.script.step_seconds = 0.02
    choose_race(page)
    run(page)
    headline = page.locator(".headline").inner_text()
    assert re.fullmatch(r"Identical text, \d\.\d+×", headline)
    assert float(headline.split()[-1][:-1]) > 1.3  # the script gives 2.3 tokens a step
    assert page.locator(".lane .text").all_inner_texts() == [TEXT, TEXT]
    assert page.locator(".lane h2").all_inner_texts() == ["none", "prompt_lookup"]
    assert page.locator("#fairness").is_visible()
    assert page.locator("#chart .curve").count() == 2
    methods = [(body["speculative"]["method"], body["max_completion_tokens"]) for body in server.script.requests]
    assert methods == [("none", 1), ("none", 160), ("prompt_lookup", 160)]  # the prompt is read once before
    assert len({body.get("seed") for body in server.script.requests[1:]}) == 1
    assert server.script.requests[1]["seed"] is not None

    clocks = page.locator(".clock").all_inner_texts()
    page.get_by_role("button", name="Watch both at once").click()
    expect(page.locator("#stop")).to_be_visible()
    wait_for_end(page)
    assert page.locator(".lane .text").all_inner_texts() == [TEXT, TEXT]
    assert page.locator(".clock").all_inner_texts() == clocks
    assert len(server.script.requests) == 3


def test_race_says_where_texts_differ(page, server):
    server.script.other_text = TEXT.replace("of wood", "of straw")
    choose_race(page)
    run(page)
    assert page.locator(".headline").inner_text() == "The texts differ"
    assert f"From character {TEXT.index('wood') + 1} on" in page.locator("#verdict").inner_text()


def test_stopping_a_replay_leaves_whole_texts(page, server):
    server.script.step_seconds = 0.05
    choose_race(page)
    run(page)
    page.get_by_role("button", name="Watch both at once").click()
    page.locator("#stop").click()
    wait_for_end(page)
    assert page.locator(".lane .text").all_inner_texts() == [TEXT, TEXT]


# ---- stopping, and what goes wrong


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_ends_the_request_and_keeps_the_text(page, server, how):
    server.script.step_seconds = SLOW
    page.locator("#prompt").fill("a long story")
    page.locator("#run").click()
    expect(page.locator(".step")).not_to_have_count(0)
    if how == "button":
        page.locator("#stop").click()
    else:
        page.keyboard.press("Escape")
    wait_for_end(page)
    text = page.locator(".lane .text").inner_text()
    assert TEXT.startswith(text)
    assert 0 < len(text) < len(TEXT)
    assert page.locator(".note").inner_text() == "Stopped."
    assert page.locator("#problem").is_hidden()
    page.wait_for_timeout(1000 * 4 * SLOW)
    assert server.script.num_hung_up == 1
    server.script.step_seconds = 0
    run(page, "again")
    assert page.locator(".lane .text").inner_text() == TEXT


def test_a_second_click_starts_nothing(page, server):
    server.script.step_seconds = 0.05
    page.locator("#prompt").fill("hello")
    page.locator("#run").dblclick()
    page.keyboard.press("Control+Enter")
    wait_for_end(page)
    assert len(server.script.requests) == 1
    assert page.locator(".lane .text").inner_text() == TEXT


def test_missing_and_wrong_input_is_told(page, server):
    page.locator("#prompt").fill("  \n ")
    page.locator("#run").click()
    assert page.locator("#problem").inner_text() == "Write a prompt first, or pick an example."
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.locator("#prompt").fill("hello")
    page.locator("#length").fill("0")
    page.locator("#run").click()
    assert "must be a number from 1 to 100000" in page.locator("#problem").inner_text()
    page.locator("#length").fill("10")
    page.locator("#drafter").select_option("other…")
    page.locator("#run").click()
    assert page.locator("#problem").inner_text() == "Name a drafter, such as suffix+recycling."
    assert server.script.requests == []
    page.locator("#drafter").select_option("none")
    run(page)
    assert page.locator("#problem").is_hidden()


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "The server refused: no"), (413, "too long for this server"), (429, "The server is busy"), (500, "The server failed: no")],
)
def test_errors_come_in_plain_words(page, server, complaints, status, words):
    server.script.status = status
    page.locator("#prompt").fill("my text")
    page.locator("#run").click()
    expect(page.locator("#problem")).to_contain_text(words)
    assert page.locator("#prompt").input_value() == "my text"
    server.script.status = 0
    run(page)
    assert page.locator("#problem").is_hidden()
    forget(complaints, REFUSED)


def test_a_broken_stream_is_told_and_what_came_is_kept(page, server):
    server.script.break_after = 3
    page.locator("#prompt").fill("hello")
    page.locator("#run").click()
    expect(page.locator("#problem")).to_contain_text("The connection broke")
    assert page.locator(".step").count() == 3
    assert page.locator(".note").inner_text() == "Broken off."


def test_an_error_inside_the_stream_is_told(page):
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body='data: {"error":{"message":"out of memory"}}\n\n'))
    page.locator("#prompt").fill("x")
    page.locator("#run").click()
    expect(page.locator("#problem")).to_have_text("The server failed: out of memory")


def test_the_page_outlives_a_restart_of_the_server(page, server, complaints):
    run(page)
    server.close()
    page.locator("#prompt").fill("still here")
    page.locator("#run").click()
    expect(page.locator("#problem")).to_contain_text("cannot be reached")
    expect(page.locator("#server")).to_contain_text("trying again")
    reborn = FakeServer(port=server.port)
    try:
        expect(page.locator("#server")).to_have_text("toy-1b")
        page.locator("#run").click()
        wait_for_end(page)
        assert page.locator("#problem").is_hidden()
        assert reborn.script.requests[0]["messages"][0]["content"] == "still here"
    finally:
        reborn.close()
    forget(complaints, REFUSED)


def test_a_page_opened_too_early_finds_the_server(browser, server, complaints):
    server.script.is_away = True
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#server")).to_contain_text("trying again")
    server.script.is_away = False
    expect(page.locator("#server")).to_have_text("toy-1b")
    context.close()


def test_a_connection_that_hangs_is_given_up(browser, server, complaints):
    context = browser.new_context()
    page = context.new_page()
    stuck = []
    page.route("**/v1/models", lambda route: stuck.append(route) if not stuck else route.continue_())
    page.goto(server.url)
    expect(page.locator("#server")).to_have_text("loading…")
    expect(page.locator("#server")).to_contain_text("trying again", timeout=15_000)
    assert len(stuck) == 1
    expect(page.locator("#server")).to_have_text("toy-1b")
    context.close()


def test_a_key_is_asked_for_and_kept_in_this_tab_only(browser, complaints):
    server = FakeServer(Script(key="secret"))
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#key")).to_be_visible()
    page.locator("#key").fill("wrong")
    page.locator("#key").press("Tab")
    expect(page.locator("#server")).to_have_text("needs a key")
    page.locator("#key").fill("secret")
    page.locator("#key").press("Tab")
    expect(page.locator("#server")).to_have_text("toy-1b")
    run(page)
    page.reload()
    expect(page.locator("#server")).to_have_text("toy-1b")
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
    other = context.new_page()
    other.goto(server.url)
    expect(other.locator("#key")).to_be_visible()
    assert other.locator("#key").input_value() == ""
    context.close()
    server.close()


# ---- the prompt


def test_prompt_and_settings_outlive_a_reload(page):
    page.locator("#prompt").fill("do not lose me")
    page.locator("#seed").fill("42")
    choose_race(page)
    page.locator("#rival").select_option("blind")
    page.reload()
    expect(page.locator("#server")).to_have_text("toy-1b")
    assert page.locator("#prompt").input_value() == "do not lose me"
    assert page.locator("#seed").input_value() == "42"
    assert page.locator("#rival").input_value() == "blind"
    assert page.locator("#run").inner_text() == "Race"


def test_examples_never_eat_the_reader_s_text(page):
    page.locator("#prompt").fill("my own words")
    for name, start in [("Summarise", "Summarize"), ("Edit", "Correct"), ("Chat", "I would"), ("Math", "A baker")]:
        page.get_by_role("button", name=name).click()
        expect(page.locator("#prompt")).to_have_value(re.compile(f"^{start}"))
    page.reload()
    page.get_by_role("button", name="My text").click()
    assert page.locator("#prompt").input_value() == "my own words"


def test_a_huge_paste_is_survived(page, server, complaints):
    paste = """(length) => {
      const clipboardData = new DataTransfer();
      clipboardData.setData('text/plain', 'x'.repeat(length));
      const event = new ClipboardEvent('paste', { clipboardData, cancelable: true, bubbles: true });
      return document.querySelector('#prompt').dispatchEvent(event); }"""
    page.locator("#prompt").fill("my text")
    assert page.evaluate(paste, 8_000_000) is False  # the browser was told not to insert it
    assert page.locator("#problem").inner_text().startswith("That text has 8,000,000 characters")
    assert page.locator("#prompt").input_value() == "my text"
    assert page.evaluate(paste, 1000) is True

    page.locator("#prompt").fill("lorem ipsum " * 50_000)
    server.script.status, server.script.message = 413, "at most 1000 characters"
    page.locator("#run").click()
    expect(page.locator("#problem")).to_contain_text("at most 1000 characters")
    assert len(page.locator("#prompt").input_value()) == 600_000
    forget(complaints, REFUSED)


def test_a_page_without_storage_works(browser, server, complaints):
    context = browser.new_context()
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, { get() { throw Error() } })"
    )
    page = open_page(context, server.url, complaints)
    run(page)
    page.get_by_role("button", name="light and dark").click()
    expect(page.locator("#count")).to_contain_text("lost on reload")
    context.close()
    assert complaints == []


# ---- everybody can use it


@pytest.mark.parametrize("race", [False, True])
def test_a_phone_never_scrolls_sideways(browser, server, complaints, race):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = open_page(context, server.url, complaints)
    widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert page.evaluate(widths) == [360, 360]
    if race:
        choose_race(page)
    server.script.text = "x" * 300 + " " + TEXT  # a word wider than the screen
    run(page)
    assert page.evaluate(widths) == [360, 360]
    page.locator(".step").nth(1).tap()
    assert page.evaluate(widths) == [360, 360]
    small = """[...document.querySelectorAll('button, select, input:not([type=radio], [type=range])')]
      .filter((e) => e.checkVisibility() && e.offsetHeight < 36).map((e) => e.id)"""
    assert page.evaluate(small) == []
    context.close()
    assert complaints == []


def test_everything_works_by_keyboard(page, server):
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the skip link
    page.keyboard.type("hello")
    page.keyboard.press("Control+Enter")
    wait_for_end(page)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.textContent.trim()")
        )
        if reached[-1] == "tree":
            break
    for wanted in ("Summarise", "drafter", "length", "temperature", "seed", "run", "text", "step", "tree"):
        assert wanted in reached
    page.locator(".text").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator(".step.chosen").get_attribute("data-index") == "1"
    expect(page.locator(".step-card")).to_be_visible()
    page.locator("[name=mode][value=answer]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#run").inner_text() == "Race"
    assert "solid" in page.evaluate("getComputedStyle(document.querySelector('.modes input:focus-visible + span')).outlineStyle")


def test_every_field_has_a_name(page):
    run(page)
    nameless = """[...document.querySelectorAll('input, select, textarea, button')].filter(e =>
      !(e.labels && e.labels.length) && !e.ariaLabel && !e.textContent.trim()).map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []


def test_dark_mode_follows_the_system_and_the_button(browser, server, complaints):
    paper = "getComputedStyle(document.body).backgroundColor"
    context = browser.new_context(color_scheme="dark")
    page = open_page(context, server.url, complaints)
    dark = page.evaluate(paper)
    page.get_by_role("button", name="light and dark").click()
    light = page.evaluate(paper)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)))
    page.reload()
    assert page.evaluate(paper) == light
    page.get_by_role("button", name="light and dark").click()
    assert page.evaluate(paper) == dark
    context.close()
    assert complaints == []


def test_the_policy_of_the_page_is_strict_and_kept(page, complaints):
    html = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|https?:", html)
    page.evaluate("const s = document.createElement('script'); s.textContent = 'window.got = 1'; document.head.append(s)")
    assert page.evaluate("window.got") is None  # the policy is on: inline scripts do not run
    assert forget(complaints, "Content Security Policy")
    run(page)


def test_nothing_is_loaded_from_elsewhere(browser, server, complaints):
    context = browser.new_context()
    urls: list[str] = []
    context.on("request", lambda request: urls.append(request.url))
    page = open_page(context, server.url, complaints)
    run(page)
    context.close()
    assert len(urls) > 10
    assert all(url.startswith(server.url) for url in urls)


# ---- the real server


@pytest.fixture
def real_url() -> Iterator[str]:
    """The address of `outpace serve` with the default model."""
    pytest.importorskip("fastapi", reason="fastapi is missing: pip install 'outpace[server]'")
    command = [sys.executable, "-m", "outpace", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=STATIC.parents[2]) as process:
        found = next((url for line in process.stderr if (url := re.search(r"http://[^\s]+:\d+", line))), None)
        assert found, "the server has ended without an address"
        yield found[0]
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.real
def test_the_real_server_answers_and_races(browser, real_url, complaints):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(real_url)
    page.get_by_role("button", name="Edit").click()
    page.locator("#drafter").select_option("prompt_lookup")
    page.locator("#length").fill("48")
    page.locator("#run").click()
    page.locator("#viewer").wait_for()
    assert page.locator("#problem").is_hidden()
    assert page.locator("[data-figure=tokens]").inner_text() == "48"
    assert page.locator(".token.guess").count() > 0
    joined = "".join(page.locator(".lane .token").all_text_contents())
    assert joined == page.locator(".lane .text").text_content()

    choose_race(page)
    page.locator("#temperature").fill("0.8")
    page.locator("#run").click()
    page.locator(".headline").wait_for()
    assert page.locator(".headline").inner_text().startswith("Identical text, ")
    first, second = page.locator(".lane .text").all_text_contents()
    assert first == second != joined
    assert float(page.locator(".lane [data-figure=acceptance]").nth(1).inner_text()) > 1
    context.close()
    assert complaints == []


def forget(complaints: list[str], words: str) -> int:
    """Takes expected complaints off the list; how many there were."""
    expected = [complaint for complaint in complaints if words in complaint]
    complaints[:] = [complaint for complaint in complaints if words not in complaint]
    return len(expected)
