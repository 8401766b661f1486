"""Reads a trace file back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError
from outpace.files import read_text
from outpace.trace.recorder import VERSION
from outpace.trace.totals import StepTotals


@dataclass(frozen=True)
class Trace:
    """A trace file: its header, and its steps as they are in the file."""

    about: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)

    def totals(self) -> dict[str, StepTotals]:
        """drafter -> sums over the steps all of whose answers ran with it; steps of several drafters count as "mixed"."""
        found: dict[str, StepTotals] = {}
        for step in self.steps:
            drafters = {answer["drafter"] for answer in step["answers"]}
            if not drafters or step["num_prompt_tokens"]:
                continue
            name = drafters.pop() if len(drafters) == 1 else "mixed"
            seconds = {part: milliseconds / 1e3 for part, milliseconds in step["milliseconds"].items()}
            answers = [(answer["num_drafted"], answer["num_accepted"], len(answer["tokens"])) for answer in step["answers"]]
            found.setdefault(name, StepTotals()).add(seconds, step["num_tokens"], answers)
        return found


def is_trace(path: Path) -> bool:
    """Whether the first line of a file is the header of a trace. Raises BadInputError if it cannot be read."""
    try:
        header = json.loads(read_text(path).partition("\n")[0])
    except ValueError:
        return False
    return isinstance(header, dict) and "trace" in header


def read_trace(path: Path) -> Trace:
    """Read a trace; a last line that is cut off, as by a crash, is left out. Raises BadInputError for what is no trace."""
    lines = list(_lines(path))
    if not lines or "trace" not in lines[0]:
        raise BadInputError(f"{path} is not a trace of outpace")
    if lines[0]["trace"] != VERSION:
        raise BadInputError(f"{path} is a trace of version {lines[0]['trace']}, and this outpace reads version {VERSION}")
    steps = lines[1:]
    for number, step in enumerate(steps, 2):
        if not {"milliseconds", "num_tokens", "num_prompt_tokens", "answers"} <= step.keys():
            raise BadInputError(f"{path}:{number}: not a step of a trace")
    return Trace(lines[0], steps)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    text = read_text(path).rstrip("\n").split("\n")
    for number, line in enumerate(text, 1):
        try:
            found = json.loads(line)
        except ValueError as error:
            if number == len(text) > 1:
                return
            raise BadInputError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(found, dict):
            raise BadInputError(f"{path}:{number}: not a JSON object")
        yield found
