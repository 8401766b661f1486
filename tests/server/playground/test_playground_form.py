"""The form of the playground: which drafter to take, further fields, and the request as code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fake_server import DRAFTERS
from playground_tools import expect, open_page, run

GROUPS = "[...document.querySelectorAll('#drafter optgroup')].map((g) => [g.label, [...g.children].map((o) => [o.text, o.value])])"


def test_drafters_come_in_groups_with_one_recommended(page):
    groups = dict(page.evaluate(GROUPS))
    assert list(groups) == [
        "Recommended",
        "From the text so far",
        "From the model’s own predictions",
        "Others of this server",
        "To compare with",
        "By its name in the API",
    ]
    assert groups["Recommended"] == [["Copy from the text", "prompt_lookup"]]  # what the server was started with
    assert groups["To compare with"] == [["Plain decoding", "none"], ["Blind", "blind"]]
    assert groups["Others of this server"] == [["house:special", "house:special"]]
    offered = [value for options in groups.values() for _, value in options]
    assert sorted(offered) == sorted({*DRAFTERS, "other…"} - {"prediction"})  # each once; a prediction cannot be given here
    assert page.locator("#drafter").input_value() == "prompt_lookup"
    assert page.locator("#about").inner_text().endswith("In the API: prompt_lookup (options: branches=3).")


@pytest.mark.parametrize(
    ("names", "own", "wanted"),
    [
        (["none", "auto", "suffix"], "none", "auto"),
        (["none", "suffix", "prompt_lookup"], "none", "prompt_lookup"),
        (["none", "auto", "prompt_lookup"], "prompt_lookup", "auto"),
        (["none", "auto", "suffix"], "suffix", "suffix"),
        (["none", "auto", "a+b"], "a+b", "a+b"),
        (["none"], "none", "none"),
    ],
)
def test_what_is_recommended(page, names, own, wanted):
    ask = """async (list) => { const d = await import('/static/js/drafters.js');
      const words = [d.inWords('auto:suffix+x'), d.inWords('suffix:a=1+own')];
      return [d.recommended(list), d.grouped(list).flatMap(([, names]) => names), ...words]; }"""
    entries = [{"name": name, "description": "", "options": {}, "default": name == own} for name in names]
    found, groups, *words = page.evaluate(ask, entries)
    assert (found, words) == (wanted, ["Automatic", "Repeat passages + own"])
    assert groups[0] == wanted
    assert sorted(groups) == sorted(names)


def test_system_prompt_schema_and_tools_reach_the_server(page, server):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    page.locator("#more summary").click()
    page.locator("#system").fill("Be brief.")
    page.locator("#schema").fill(json.dumps(schema))
    page.locator("#tools").fill(json.dumps(tools))
    run(page, "Where?")
    body = server.script.requests[0]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert body["tools"] == tools
    for field, text in (("schema", "{"), ("schema", "[]"), ("tools", "{}")):
        page.locator(f"#{field}").fill(text)
        page.locator("#run").click()
        expect(page.locator("#problem")).to_contain_text("must be a" if field == "tools" else "JSON schema must be an object")
        page.locator(f"#{field}").fill("")
    assert len(server.script.requests) == 1
    page.reload()
    expect(page.locator("#system")).to_have_value("Be brief.")


PROMPT = 'It\'s "quoted",\n$HOME `x` ünï \\ end'


def test_the_request_as_curl_and_as_python(browser, server, complaints, tmp_path):
    """Both programs run as they are copied, and send what the page would send."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = open_page(context, server.url, complaints)
    page.locator("#prompt").fill(PROMPT)
    page.locator("#seed").fill("7")
    copied = {}
    for language in ("curl", "Python"):
        page.get_by_role("button", name=f"Copy as {language}").click()
        expect(page.locator("#code-note")).to_have_text("Copied.")
        copied[language] = page.evaluate("navigator.clipboard.readText()")
        assert page.locator("#code pre").inner_text() == copied[language]
        page.get_by_role("button", name="Close the code").click()
        assert page.locator("#code").is_hidden()
    context.close()
    subprocess.run(["bash", "-c", copied["curl"]], check=True, capture_output=True, timeout=20)
    body = server.script.requests[-1]
    assert body == {
        "model": "toy-1b",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_completion_tokens": 160,
        "temperature": 0,
        "seed": 7,
        "speculative": "prompt_lookup",
    }
    (tmp_path / "openai.py").write_text(
        "class OpenAI:\n  def __init__(self, **o): self.o, self.chat, self.completions = o, self, self\n"
        "  def create(self, **o): import json, sys; json.dump([self.o, o], sys.stderr); sys.exit()\n",
        "utf-8",
    )
    (tmp_path / "copied.py").write_text(copied["Python"], "utf-8")
    done = subprocess.run([sys.executable, "copied.py"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    options, fields = json.loads(done.stderr)
    assert options == {"base_url": server.url + "v1", "api_key": "none"}
    assert {**fields.pop("extra_body"), **fields} == body


def test_code_names_a_key_without_showing_it(page):
    write = "async ([name, body]) => (await import('/static/js/code.js'))[name](body, 'http://h/v1', true)"
    body = {"model": "m", "stop": None, "stream": False, "speculative": "none"}
    curl, python = (page.evaluate(write, [name, body]) for name in ("asCurl", "asPython"))
    assert '-H "Authorization: Bearer $OUTPACE_API_KEY"' in curl
    assert 'api_key=os.environ["OUTPACE_API_KEY"]' in python
    assert "    stop=None,\n    stream=False,\n" in python


def test_a_phone_has_one_header_line_and_pop_ups_close(browser, server, complaints):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = open_page(context, server.url, complaints)
    assert page.locator(".top").bounding_box()["height"] < 70
    run(page)
    card = page.locator(".step-card")
    page.locator(".step").nth(1).tap()
    expect(card).to_be_visible()
    page.locator("#legend-card h2").tap()
    expect(card).to_be_hidden()
    page.locator("#tree").focus()
    page.keyboard.press("Home")
    wide = page.locator("#tree").evaluate("e => e.scrollWidth > e.clientWidth")
    assert wide
    expect(page.locator("#tree-hint")).to_be_visible()
    context.close()
    assert complaints == []
