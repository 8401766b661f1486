"""The sections of a page about a trace."""

from __future__ import annotations

from collections import Counter

from outpace.bench.page.sections import PART_WORDS, Bar, Cell, Section, bars, pass_section, position_section, time_section
from outpace.engine.metrics import tokens_per_step
from outpace.engine.step_record import PARTS
from outpace.trace.reader import Trace
from outpace.trace.totals import StepTotals

NUM_SLOWEST = 8


def trace_headline(trace: Trace) -> tuple[str, str]:
    """What the trace has, and the tone."""
    answers = [answer for step in trace.steps for answer in step["answers"]]
    if not answers:
        return "The trace has no step that decodes.", "neutral"
    num_tokens = sum(len(answer["tokens"]) for answer in answers)
    num_requests = len({answer["request"] for answer in answers})
    per_step = tokens_per_step(num_tokens, len(answers))
    requests = f"{num_requests} request{'' if num_requests == 1 else 's'}"
    return f"{requests}, {num_tokens} tokens in {len(answers)} steps of requests: {per_step:.2f} tokens per step.", "good"


def trace_sections(trace: Trace) -> list[Section]:
    """All sections that the trace has figures for."""
    totals = trace.totals()
    documents = {name: found.document() for name, found in totals.items()}
    found = [
        _tokens_per_step(trace),
        time_section(documents) if documents else None,
        position_section(documents),
        _passes(totals),
        _slowest(trace),
    ]
    return [section for section in found if section is not None]


def _tokens_per_step(trace: Trace) -> Section | None:
    """How many steps of requests gave 1, 2, 3, … tokens."""
    counts = Counter(len(answer["tokens"]) for step in trace.steps for answer in step["answers"])
    total = sum(counts.values())
    if not total:
        return None
    rows = [
        Bar(
            f"{number} token{'' if number == 1 else 's'}",
            counts[number],
            f"{counts[number]} step{'' if counts[number] == 1 else 's'}",
            note=f"{100 * counts[number] / total:.0f}%",
        )
        for number in range(min(counts), max(counts) + 1)
        if counts[number]
    ]
    return bars("tokens", "Tokens of a step", "How many steps of a request gave how many tokens; plain decoding gives 1 in each.", rows)


def _passes(totals: dict[str, StepTotals]) -> Section | None:
    whole = StepTotals()
    for found in totals.values():
        for size, seconds in found.passes.items():
            whole.passes.setdefault(size, []).extend(seconds)
    costs = whole.pass_cost()
    source = "Median of the passes of each size that ran at least 3 times, padding not counted."
    return pass_section(costs, None, source) if costs else None


def _slowest(trace: Trace) -> Section | None:
    """The steps that took longest, with the time of their parts."""
    steps = [step for step in trace.steps if step["answers"]]
    slowest = sorted(steps, key=lambda step: -sum(step["milliseconds"].values()))[:NUM_SLOWEST]
    if not slowest:
        return None
    table = [
        [
            Cell(str(step["step"])),
            Cell(f"{step['at'] / 1e3:.2f}"),
            Cell(str(step["num_tokens"])),
            Cell(str(step["num_prompt_tokens"])),
            *(Cell(f"{step['milliseconds'][part]:.1f}") for part in PARTS),
        ]
        for step in slowest
    ]
    headings = ["step", "at, s", "tokens", "of prompts", *(f"{PART_WORDS[part]}, ms" for part in PARTS)]
    lead = "Steps with many tokens of prompts are slow for that reason. Others show where the machine stalled."
    return Section("slowest", "The slowest steps", lead, "table", table, headings)
