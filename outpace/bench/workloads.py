"""Prompt files: JSON lines with `prompt`, `messages` or the `turns` of Spec-Bench, and optionally a `prediction`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError
from outpace.files import read_text

# the MT-bench part of Spec-Bench, whose rows have `question_id` and `turns`, counts as one category
CHAT_CATEGORIES = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


@dataclass(frozen=True)
class Workload:
    """One prompt of a file, as a conversation. `part` is the category as named in the file.

    `prediction`: the text that the answer is expected to resemble; only the drafter `prediction` reads it.
    """

    id: str
    category: str
    part: str
    messages: list[dict[str, str]]
    prediction: str | None = None


def read_prompts(path: Path, limit: int | None = None) -> list[Workload]:
    """Read all prompts of a file, or `limit` of them spread evenly over the categories. Raises BadInputError naming the line."""
    if limit is not None and limit < 1:
        raise BadInputError(f"limit must be at least 1, not {limit}")
    workloads = [_workload(row, where, number) for where, number, row in read_rows(path)]
    if not workloads:
        raise BadInputError(f"{path} has no prompts")
    return workloads if limit is None else spread(workloads, limit)


def read_rows(path: Path) -> list[tuple[str, int, dict[str, Any]]]:
    """(file and line for error messages, line number from 1, object) of every line of a file of JSON objects, or of every entry of one JSON
    array. Raises BadInputError."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        entries = list(enumerate(_parse(text, str(path)), 1))
        return [(f"{path}, entry {number}", number, _object(entry, f"{path}, entry {number}")) for number, entry in entries]
    lines = [(f"{path}:{number}", number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(where, number, _object(_parse(line, where), where)) for where, number, line in lines]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInputError(f"{where}: not JSON ({error})") from error


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BadInputError(f"{where}: not a JSON object")
    return row


def _workload(row: dict[str, Any], where: str, number: int) -> Workload:
    part = str(row.get("category", "prompts"))
    is_spec_bench = "question_id" in row and "turns" in row
    category = "chat" if is_spec_bench and part in CHAT_CATEGORIES else part
    prediction = row.get("prediction")
    if prediction is not None and not isinstance(prediction, str):
        raise BadInputError(f"{where}: 'prediction' is not a text")
    return Workload(str(row.get("id", row.get("question_id", number))), category, part, messages_of(row, where), prediction)


def messages_of(row: dict[str, Any], where: str) -> list[dict[str, str]]:
    """The conversation of a row with `messages`, `turns` or `prompt`. Raises BadInputError."""
    messages = row.get("messages")
    if isinstance(messages, list) and messages and all(_is_message(message) for message in messages):
        return [{"role": message["role"], "content": message["content"]} for message in messages]
    turns = row.get("turns")
    prompt = row.get("prompt", turns[0] if isinstance(turns, list) and turns else None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInputError(f"{where}: needs a non-empty 'prompt', 'messages' or 'turns'")
    return [{"role": "user", "content": prompt}]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) and message[key].strip() for key in ("role", "content"))


def spread(workloads: Sequence[Workload], limit: int) -> list[Workload]:
    """`limit` prompts, spread as evenly as possible over the categories and their parts, in the order of the file."""
    chosen = {id(workload) for workload in rotation(workloads)[:limit]}
    return [workload for queue in _queues(workloads) for workload in queue if id(workload) in chosen]


def rotation(workloads: Sequence[Workload]) -> list[Workload]:
    """All prompts, one of each category in turn, so that every prefix of this list is spread over the categories."""
    return _alternating(_queues(workloads))


def _queues(workloads: Sequence[Workload]) -> list[list[Workload]]:
    """One list per category, with its parts taking turns."""
    groups: dict[str, dict[str, list[Workload]]] = {}
    for workload in workloads:
        groups.setdefault(workload.category, {}).setdefault(workload.part, []).append(workload)
    return [_alternating(list(parts.values())) for parts in groups.values()]


def _alternating(groups: Sequence[Sequence[Workload]]) -> list[Workload]:
    """The first of each group, then the second of each, …"""
    rounds = itertools.zip_longest(*groups)
    return [workload for one_round in rounds for workload in one_round if workload is not None]
