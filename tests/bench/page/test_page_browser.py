"""The page of a benchmark in a real browser: it fits a phone, keeps to its policy, and shows what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playground_tools import CHROMIUM, FLAGS, playwright

from outpace.bench.page.render import page

DOCUMENT = json.loads((Path(__file__).parents[3] / "docs" / "results" / "peers" / "coder-1.5b.json").read_text("utf-8"))
LONG = "auto:suffix:memory=100000:threshold=0.05+recycling+draft_model:coder-0.5b:max_depth=4:min_confidence=0.4"


@pytest.fixture(scope="module")
def browser() -> Any:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read(browser, tmp_path, width, scheme):
    steps = {"drafter": LONG, "num_steps": 9, "num_tokens": 20, "num_drafts": 8, "acceptance_by_position": [0.9, 0.5, 0.25]}
    times = {"draft": 1.0, "forward": 40.0, "verify": 2.0, "rest": 1.0}
    floor = {"weight_bytes": 900_000_000, "gigabytes_per_second": 30.0, "milliseconds": 30.0}
    results = [{**row, "drafter": LONG if row["drafter"] == "auto" else row["drafter"]} for row in DOCUMENT["results"]]
    found = {**DOCUMENT, "results": results, "steps": [{**steps, "milliseconds": times}], "pass_floor": floor}
    (tmp_path / "page.html").write_text(page(found), "utf-8")
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    view = context.new_page()
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto((tmp_path / "page.html").as_uri())
    assert view.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]") == [width, width]
    outside = "(right) => [...document.querySelectorAll('p, li, h2, .track')].filter((e) => e.getBoundingClientRect().right > right).length"
    assert view.evaluate(outside, width) == 0
    ends = "() => [...document.querySelectorAll('.track')].every((e) => e.scrollWidth <= e.clientWidth + 2)"
    assert view.evaluate(ends)
    paper, ink = (view.locator("body").evaluate(f"e => getComputedStyle(e).{name}") for name in ("backgroundColor", "color"))
    lightness = [sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) for colour in (paper, ink)]
    assert lightness[0] - lightness[1] > 500 if scheme == "light" else lightness[1] - lightness[0] > 500
    assert view.locator("#time .stack > div").count() == 4
    shares = view.locator("#time .stack > div").evaluate_all("all => all.map((e) => e.getBoundingClientRect().width)")
    assert shares[1] == pytest.approx(20 * shares[2], rel=0.05)
    context.close()
    assert complaints == []
