"""The page of the playground: prompts, narrow screens, keyboards, dark mode, its policy; and once the real server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fake_server import STATIC, TEXT
from playground_tools import REFUSED, choose_race, expect, forget, open_page, run, wait_for_end


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
    for name, start in [("Summarise", "Summarize"), ("Edit", "Write"), ("Chat", "I would"), ("Math", "A baker")]:
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


REPLAYED = """() => {
    const texts = [...document.querySelectorAll(".lane .text")].map(lane => lane.textContent);
    return texts[0].length > 100 && texts[0] === texts[1] ? texts : null;
}"""  # a race is shown once more when it is over: both lanes have the same text again when that ends


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
    assert page.locator(".headline").inner_text().startswith("Same text, ")
    first, second = page.wait_for_function(REPLAYED).json_value()
    assert first == second != joined
    assert float(page.locator(".lane [data-figure=acceptance]").nth(1).inner_text()) > 1
    context.close()
    assert complaints == []
