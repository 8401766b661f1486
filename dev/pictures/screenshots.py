"""Take the pictures of docs/server/playground.md from the real server. usage: python dev/pictures/screenshots.py [PICTURE …]

Needs chromium (apt-get install chromium) and the extra `dev`. Run it on a machine that does nothing else: the pictures show speeds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from outpace.bench.looping import is_looping

OUT = Path(__file__).parents[2] / "docs" / "pictures"
MODEL = "coder-0.5b"
CHROMIUM = "/usr/bin/chromium"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
DESKTOP = {"width": 1280, "height": 960}
PHONE = {"width": 390, "height": 844}
MAX_BYTES = 300_000
SIZE = "e => e.scrollWidth <= e.clientWidth && e.querySelectorAll('.accepted.node').length > 1 ? e.querySelectorAll('.node').length : 0"
PATIENCE = 180_000  # milliseconds for one answer on a slow machine


@contextmanager
def server(*options: str) -> Iterator[str]:
    """The address of `outpace serve` on a free port."""
    command = [sys.executable, "-m", "outpace", "serve", "--model", MODEL, "--port", "0", *options]
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
    """Pick an example, run it and wait for the end. Refuses a text that loops: it would show speeds that nobody gets."""
    page.locator(".modes").get_by_text("Race" if race else "One answer").click()
    page.get_by_role("button", name=example, exact=True).click()
    page.locator("#drafter").select_option("other…" if "+" in drafter else drafter)
    if "+" in drafter:
        page.locator("#drafter-spec").fill(drafter)
    page.locator("#length").fill(str(length))
    page.locator("#run").click()
    page.locator("#verdict").wait_for(timeout=PATIENCE)
    page.locator("#stop").wait_for(state="hidden", timeout=PATIENCE)
    page.evaluate("scrollTo(0, 0)")
    for text in page.locator(".lane .text").all_text_contents():
        if is_looping([ord(letter) for letter in text]):
            raise SystemExit(f"the text loops: {text}")


def light(page: Any) -> None:
    """An answer, and the rejected draft tokens at one place of it."""
    answer(page, "Summarise", 120, "prompt_lookup+recycling")
    card = page.locator(".step-card")
    for step in page.locator(".step").all()[5:]:
        step.locator(".token").last.hover()
        if card.locator(".rejected").count() > 1 and card.locator(".guess").count() > 1:
            return


def dark(page: Any) -> None:
    """An edit, where most draft tokens are accepted."""
    answer(page, "Edit", 160, "prompt_lookup")


def race(page: Any) -> None:
    """Two drafters, one text."""
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


def phone(page: Any) -> None:
    """An edit on a phone, from the verdict on."""
    dark(page)
    page.locator("#results").evaluate("e => e.scrollIntoView()")
    page.mouse.move(0, 0)


def key(page: Any) -> None:
    """A server with keys, and a wrong key."""
    page.locator("#key").fill("wrong")
    page.locator("#unlock").click()
    page.locator("#problem").wait_for()


PICTURES = {  # name -> (what to do, viewport, dark?, the part that is shown)
    "light": (light, DESKTOP, False, None),
    "dark": (dark, DESKTOP, True, None),
    "race": (race, {"width": 1280, "height": 1000}, False, None),
    "steps": (steps, DESKTOP, False, "#viewer"),
    "phone": (phone, PHONE, False, None),
    "key": (key, PHONE, False, None),
}


def take(browser: Any, name: str, url: str) -> None:
    """docs/pictures/playground-NAME.png"""
    prepare, viewport, is_dark, part = PICTURES[name]
    is_small = part is not None or viewport is PHONE
    scheme = "dark" if is_dark else "light"
    context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=1.5 if is_small else 1)
    page = context.new_page()
    page.goto(url)
    page.locator("#key" if name == "key" else "#server:not(.away)").wait_for(timeout=PATIENCE)
    prepare(page)
    page.wait_for_timeout(300)
    out = OUT / f"playground-{name}.png"
    (page.locator(part) if part else page).screenshot(path=out)
    context.close()
    if out.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{out.name} is larger than {MAX_BYTES // 1000} kB")


def main(names: list[str]) -> None:
    """All pictures, or those with these names."""
    with sync_playwright() as driver, tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("secret\n")
        keys.flush()
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        for options in ((), ("--api-key-file", keys.name)):
            wanted = [name for name in names if (name == "key") == bool(options)]
            if wanted:
                with server(*options) as url:
                    for name in wanted:
                        take(browser, name, url)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:] or list(PICTURES))
