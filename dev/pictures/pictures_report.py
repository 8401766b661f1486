"""Take the pictures of docs/measuring/reports.md: the page of a benchmark that was measured. usage: python dev/pictures/pictures_report.py
[RESULTS.json]

Needs chromium (apt-get install chromium) and the extra `dev`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from screenshots import CHROMIUM, DESKTOP, FLAGS, MAX_BYTES, OUT, PHONE

from outpace.bench.page.render import page

RESULTS = OUT.parent / "results" / "peers" / "coder-1.5b.json"
PICTURES: dict[str, tuple[Any, Any, str]] = {
    "report": (DESKTOP, "light", "main"),
    "report-phone": (PHONE, "dark", "#speed"),
}  # name -> (size, theme, the part shown first)


def main(path: str = str(RESULTS)) -> None:
    """docs/pictures/report.png and report-phone.png"""
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.html")
        file.write_text(page(json.loads(Path(path).read_text("utf-8"))), "utf-8")
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        for name, (viewport, theme, part) in PICTURES.items():
            context = browser.new_context(viewport=viewport, color_scheme=theme, device_scale_factor=1.5 if viewport is PHONE else 1)
            view = context.new_page()
            view.goto(file.as_uri())
            view.locator(part).evaluate("e => e.scrollIntoView()")
            out = OUT / f"{name}.png"
            view.screenshot(path=out)
            context.close()
            if out.stat().st_size > MAX_BYTES:
                raise SystemExit(f"{out.name} is larger than {MAX_BYTES // 1000} kB")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
