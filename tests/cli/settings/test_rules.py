"""Options that exclude or need each other: refused when typed; those of the settings file give way."""

from __future__ import annotations

import json

import pytest
from cli_tools import call, one_error_line

from outpace.cli.options.loading import Drafting, Loading
from outpace.cli.options.rules import excludes, goes_before, needs, one_of, settled
from outpace.errors import BadInputError

DEFAULTS = {"a": None, "b": 1, "c": False, "d": []}
NAMES = {name: f"--{name}" for name in DEFAULTS}


def left(rules, typed, filed) -> dict:
    """What is left of options, without those that have their defaults."""
    found = settled({**DEFAULTS, **filed, **typed}, DEFAULTS, rules, lambda name: name in typed, NAMES)
    return {name: value for name, value in found.items() if value != DEFAULTS[name]}


@pytest.mark.parametrize(
    ("rule", "typed", "filed", "want"),
    [
        (excludes("a", "b"), {"a": 0}, {"b": 2}, {"a": 0}),
        (excludes("a", "b"), {"b": 2}, {"a": 0}, {"b": 2}),
        (excludes("a", "b"), {}, {"a": 0, "b": 2}, {"a": 0}),
        (excludes("a", "b"), {"a": 0, "b": 1}, {}, {"a": 0}),
        (excludes("a", "d"), {"a": 0, "d": ()}, {}, {"a": 0, "d": ()}),
        (excludes("a", "b", of_option=bool), {"a": 0, "b": 2}, {}, {"a": 0, "b": 2}),
        (excludes("a", "b", of_others=lambda value: value > 2), {"a": 0, "b": 2}, {}, {"a": 0, "b": 2}),
        (needs("a", "b", "c"), {}, {"b": 2, "c": True}, {}),
        (needs("a", "b", "c"), {"b": 2}, {"a": 5}, {"a": 5, "b": 2}),
        (goes_before("a", "b"), {"a": 5, "b": 2}, {}, {"a": 5, "b": 2}),
        (goes_before("a", "b"), {}, {"a": 5, "b": 2}, {"a": 5, "b": 2}),
        (goes_before("a", "b"), {"b": 2}, {"a": 5}, {"b": 2}),
        (goes_before("a", "b"), {"a": 5}, {"b": 2}, {"a": 5}),
    ],
)
def test_the_settings_file_gives_way(rule, typed, filed, want):
    assert left([rule], typed, filed) == want


@pytest.mark.parametrize(
    ("rule", "typed", "filed", "told"),
    [
        (excludes("a", "b"), {}, {"a": 0, "b": 2}, "your settings have --a and --b: --b is left out\n"),
        (goes_before("a", "b"), {}, {"a": 0, "b": 2}, ""),
        (excludes("a", "b"), {"a": 0}, {"b": 2}, ""),
        (excludes("a", "b"), {"b": 2}, {"a": 0}, ""),
        (needs("a", "b"), {}, {"b": 2}, ""),
    ],
)
def test_an_option_of_the_file_that_gives_way_to_another_one_there_is_named(capsys, rule, typed, filed, told):
    left([rule], typed, filed)
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("rules", "typed", "message"),
    [
        ([excludes("a", "b", "c")], {"a": 0, "c": True}, "--c cannot be used with --a"),
        ([needs("a", "b", "c")], {"b": 2}, "--b needs --a"),
        ([excludes("a", "b", message="{other} not at {value}")], {"a": "x", "b": 2}, "--b not at x"),
        (one_of("a", "b", "c", message="one of them"), {"b": 3, "c": True}, "one of them"),
    ],
)
def test_what_is_typed_is_refused(rules, typed, message):
    with pytest.raises(BadInputError, match=message):
        left(rules, typed, {})


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ('system = "Be brief."', ["--raw"]),
        ("[generate]\nraw = true", ["--system", "Be brief."]),
        ("[generate]\nlogprobs = 3", []),
        ("[generate]\ntrace-text = true", []),
        ('[generate]\noutput = "answers"\nray = true', []),
        ('drafter = "suffix"', ["--explain"]),
    ],
)
def test_commands_run_although_the_file_has_an_option_that_does_not_fit(tmp_path, monkeypatch, toy_llm, text, more):
    path = tmp_path / "settings.toml"
    monkeypatch.setenv("OUTPACE_CONFIG", str(path))
    path.write_text(text)
    result = call("generate", "hello", "--max-tokens", "2", *more)
    assert result.exit_code == 0, result.output


def test_a_typed_config_goes_before_the_drafter_of_the_file(files, tmp_path, monkeypatch, toy_llm):
    path = tmp_path / "settings.toml"
    monkeypatch.setenv("OUTPACE_CONFIG", str(path))
    path.write_text('drafter = "suffix"')
    asked = []
    monkeypatch.setattr(Loading, "llm", lambda loading, *_: asked.append(loading) or toy_llm)
    for more in ([], ["--config", "good.json"], ["--config", "good.json", "--drafter", "blind"]):
        call("generate", "hello", "--max-tokens", "2", *more)
    assert [(one.drafter, one.config and one.config.name) for one in asked] == [
        ("suffix", None),
        (None, "good.json"),
        ("blind", "good.json"),
    ]
    assert Drafting(drafter="blind", config=files / "good.json").arguments("auto")["speculative_config"] == "blind"
    assert Drafting(config=files / "good.json").arguments("auto")["speculative_config"] == json.loads((files / "good.json").read_text())
    assert Drafting().arguments("auto")["speculative_config"] == "auto"


def test_bench_is_refused_with_an_option_of_the_server_that_is_typed(files, tmp_path, monkeypatch, toy_llm):
    message = one_error_line(call("bench", "--server", "http://localhost:1", "--model", "tiny"))
    assert message == "--model applies only to a server started here, not to the one at http://localhost:1"
