"""Take the pictures of docs/playground.md from the real server with the default model. usage: python dev/pictures/screenshots.py [URL]

Without the URL of a running server, one is started and stopped. Needs chromium (apt-get install chromium) and the extra `dev`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parents[2] / "docs"
CHROMIUM = "/usr/bin/chromium"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
DESKTOP = {"width": 1320, "height": 1000}
PHONE = {"width": 360, "height": 780}
MAX_BYTES = 300_000
SIZE = "e => e.scrollWidth <= e.clientWidth && e.querySelector('.accepted, .own') ? e.querySelectorAll('.node').length : 0"
PATIENCE = 180_000  # milliseconds for one answer on a slow machine


@contextmanager
def server() -> Iterator[str]:
    """Run `outpace serve` on a free port and yield its address."""
    command = [sys.executable, "-m", "outpace", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"http://\S+?:\d+", line):
                    yield found[0]
                    return
            raise SystemExit("the server did not start")
        finally:
            process.terminate()


def answer(page: Any, example: str, length: int, drafter: str, race: bool = False) -> None:
    """Select an example, run it and wait for the end."""
    page.locator(".modes").get_by_text("Race" if race else "One answer").click()
    page.get_by_role("button", name=example).click()
    page.locator("#drafter").select_option("other…" if "+" in drafter else drafter)
    if "+" in drafter:
        page.locator("#drafter-spec").fill(drafter)
    page.locator("#length").fill(str(length))
    page.locator("#run").click()
    page.locator("#verdict .headline" if race else "#viewer").wait_for(timeout=PATIENCE)
    page.locator("#stop").wait_for(state="hidden", timeout=PATIENCE)
    page.evaluate("scrollTo(0, 0)")


def light(page: Any) -> None:
    """An answer, and the draft tokens at one of its steps."""
    answer(page, "Summarise", 120, "prompt_lookup+recycling")
    card = page.locator(".step-card")
    for step in page.locator(".step").all()[5:]:
        step.locator(".token").last.hover()
        if card.locator(".rejected").count() > 1 and card.locator(".guess").count() > 1:
            return


def dark(page: Any) -> None:
    """An edit, for which most draft tokens are accepted."""
    answer(page, "Edit", 160, "prompt_lookup")


def race(page: Any) -> None:
    """Two drafters on the same prompt."""
    answer(page, "Edit", 160, "prompt_lookup", race=True)


def steps(page: Any) -> None:
    """The draft tree of the step with most branches."""
    answer(page, "Summarise", 120, "prompt_lookup+recycling")
    page.locator("#tree").focus()
    page.keyboard.press("Home")
    sizes = []
    for _ in range(page.locator(".step").count()):
        sizes.append(page.locator("#tree").evaluate(SIZE))
        page.keyboard.press("ArrowRight")
    page.locator("#step").fill(str(sizes.index(max(sizes)) + 1))
    page.locator("#step").blur()


PICTURES = {  # name -> (action, viewport, whether dark, element to show)
    "light": (light, DESKTOP, False, None),
    "dark": (dark, DESKTOP, True, None),
    "race": (race, {"width": 1320, "height": 1345}, False, None),
    "steps": (steps, DESKTOP, False, "#viewer"),
    "phone": (dark, PHONE, False, None),
}


def main(url: str) -> None:
    """Take docs/playground-*.png."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        for name, (prepare, viewport, is_dark, part) in PICTURES.items():
            context = browser.new_context(
                viewport=viewport,
                color_scheme="dark" if is_dark else "light",
                device_scale_factor=1 if part is None and viewport is not PHONE else 1.5,
            )
            page = context.new_page()
            page.goto(url)
            page.locator("#server:not(.away)").wait_for(timeout=PATIENCE)
            prepare(page)
            if viewport is PHONE:
                page.locator("#results").evaluate("e => e.scrollIntoView()")
                page.mouse.move(0, 0)
            out = DOCS / f"playground-{name}.png"
            page.wait_for_timeout(300)
            (page.locator(part) if part else page).screenshot(path=out)
            if out.stat().st_size > MAX_BYTES:
                raise SystemExit(f"{out.name} is larger than {MAX_BYTES // 1000} kB")
            context.close()
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with server() as address:
            main(address)
