"""The playground in a real browser: Debian's chromium, driven by playwright, against a scripted server.

Importing this file skips the test module where playwright or chromium is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_server import TEXT

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


def forget(complaints: list[str], words: str) -> int:
    """Takes expected complaints off the list; how many there were."""
    expected = [complaint for complaint in complaints if words in complaint]
    complaints[:] = [complaint for complaint in complaints if words not in complaint]
    return len(expected)
