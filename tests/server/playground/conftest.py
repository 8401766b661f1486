"""The browser, the scripted server and the page, for the tests of the playground."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fake_server import FakeServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playground_tools import CHROMIUM, FLAGS, playwright

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
    """Errors and warnings of the console; a test that causes some on purpose removes them."""
    return []


@pytest.fixture
def page(browser, server, complaints) -> Iterator[Any]:
    """The page at desktop size; a test fails if it leaves an error in the console."""
    from playground_tools import open_page

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = open_page(context, server.url, complaints)
    yield page
    context.close()
    assert complaints == []
