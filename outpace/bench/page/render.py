"""Turns sections into the page, with the template and the styles of this folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from outpace import __version__
from outpace.bench.page.load_view import load_sections
from outpace.bench.page.results_view import headline, result_sections
from outpace.bench.page.sections import Section
from outpace.bench.page.trace_view import trace_headline, trace_sections
from outpace.errors import BadInputError
from outpace.trace.reader import Trace

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """A title, facts below it, a headline with its tone ("good", "neutral", "bad"), and the sections."""

    title: str
    facts: Sequence[str]
    headline: str
    tone: str
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=tuple)


def page(document: Mapping[str, Any]) -> str:
    """The page of a document that `outpace bench --json` wrote, with or without --server. Raises BadInputError for another document."""
    try:
        return _render(_load_page(document) if "load" in document else _results_page(document))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadInputError(f"this is no document of outpace bench: {type(error).__name__} {error}") from error


def trace_page(trace: Trace) -> str:
    """The page of a trace."""
    about = trace.about
    facts = [about.get("model", ""), about.get("precision", ""), *_machine(about), f"from {about.get('started_at', 'an unknown time')}"]
    words, tone = trace_headline(trace)
    return _render(Page("A trace, step by step", [fact for fact in facts if fact], words, tone, trace_sections(trace)))


def _results_page(document: Mapping[str, Any]) -> Page:
    settings = document["settings"]
    temperatures = settings["temperature"] if isinstance(settings["temperature"], list) else [settings["temperature"]]
    facts = [
        f"{document['model']}, {settings['precision']}",
        *_machine(document),
        f"{settings['num_prompts']} prompts" + (f" ({settings['prompts']})" if settings.get("prompts") else ""),
        f"at most {settings['max_tokens']} tokens",
        f"temperature {', '.join(f'{value:g}' for value in temperatures)}",
        f"{settings.get('concurrency', 1)} at once",
    ]
    words, tone = headline(document)
    return Page("Speed of speculative decoding", facts, words, tone, result_sections(document))


def _load_page(document: Mapping[str, Any]) -> Page:
    settings = document["settings"]
    facts = [
        document["model"],
        *_machine(document),
        f"{settings['seconds']:g} s per number of clients",
        f"{settings['num_prompts']} prompts",
    ]
    clean = "No answer was an error, lost, repeated or mixed up." if document["is_clean"] else "Some answers were errors, lost or mixed up."
    return Page("A server under load", facts, clean, "good" if document["is_clean"] else "bad", load_sections(document))


def _machine(document: Mapping[str, Any]) -> list[str]:
    machine = document.get("machine") or {}
    return [f"{machine['cpu']}, {machine['cores']} cores"] if {"cpu", "cores"} <= machine.keys() else []


def _render(found: Page) -> str:
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = _words
    environment.filters["spec"] = _spec
    base = files("outpace").joinpath("server/static/css/base.css")  # the page stands alone, so the colours of the playground are copied
    styles = base.read_text("utf-8") + (FOLDER / "page.css").read_text("utf-8")
    return environment.get_template("page.html.j2").render(page=found, styles=styles, version=__version__)


def _words(text: str) -> Markup:
    """A text whose parts in backticks are code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def _spec(text: str) -> Markup:
    """A name that may break behind its plus signs and colons, as specs of drafters are long."""
    return Markup(re.sub(r"([+:])(?=\S)", r"\1<wbr>", str(escape(text))))
