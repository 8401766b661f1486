"""Stopping an answer in the playground, and what the page says when something goes wrong."""

from __future__ import annotations

import pytest
from fake_server import TEXT, FakeServer, Script
from playground_tools import REFUSED, SLOW, expect, forget, run, wait_for_end


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
    assert page.locator(".lane").count() == 0  # no empty card stays
    assert page.locator("#welcome").is_visible()
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
    expect(page.locator("#key")).to_be_focused()
    shown = "[...document.querySelectorAll('input, select, textarea, #ask button')].filter((e) => e.checkVisibility()).map((e) => e.id)"
    assert page.evaluate(shown) == ["key", "unlock"]  # the key comes first, and nothing that could not work yet
    assert page.locator("#problem").is_hidden()
    page.locator("#key").fill("wrong")
    page.locator("#unlock").click()
    expect(page.locator("#problem")).to_have_text("This key is not valid here. Check it and try again.")
    expect(page.locator("#server")).to_have_text("needs a key")
    page.locator("#key").fill("two words")
    page.locator("#key").press("Enter")
    expect(page.locator("#problem")).to_contain_text("not valid here")
    page.locator("#key").fill("secret")
    page.locator("#key").press("Enter")
    expect(page.locator("#server")).to_have_text("toy-1b")
    assert page.locator("#problem").is_hidden()  # the old error is gone
    assert page.locator("#key").is_hidden()
    run(page)
    page.reload()
    expect(page.locator("#server")).to_have_text("toy-1b")
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
    other = context.new_page()
    other.goto(server.url)
    expect(other.locator("#key")).to_be_visible()
    assert other.locator("#key").input_value() == ""
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#key")).to_be_visible()
    assert page.locator("#key").input_value() == ""
    context.close()
    server.close()


def test_a_key_that_stops_working_is_asked_for_again(browser):
    server = FakeServer(Script(key="secret"))
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.locator("#key").fill("secret")
    page.locator("#unlock").click()
    run(page)
    server.script.key = "another"
    page.locator("#run").click()
    expect(page.locator("#problem")).to_have_text("This key is not valid here any more.")
    assert page.locator(".lane").count() == 0
    assert page.locator("#prompt").input_value()
    context.close()
    server.close()


def test_a_slow_start_is_explained(page, server):
    server.script.first_seconds = 1.0
    page.locator("#prompt").fill("a long prompt")
    page.locator("#run").click()
    expect(page.locator(".note")).to_have_text("Reading the prompt…")
    expect(page.locator(".step").first).to_be_visible()
    assert page.locator(".note").inner_text() != "Reading the prompt…"
    wait_for_end(page)
