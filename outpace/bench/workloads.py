"""Prompt files: JSON lines with `prompt`, `messages` or Spec-Bench's `turns`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError

# Spec-Bench's MT-bench part counts as one category
CHAT_CATEGORIES = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


@dataclass(frozen=True)
class Workload:
    """One prompt of a file, as a conversation."""

    id: str
    category: str
    messages: list[dict[str, str]]


def read_prompts(path: Path, limit: int | None = None) -> list[Workload]:
    """All prompts of a file, or `limit` of them spread evenly over the categories. Raises BadInputError naming the line."""
    if limit is not None and limit < 1:
        raise BadInputError(f"limit must be at least 1, not {limit}")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    workloads = [_parse(line, f"{path}:{number}", number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not workloads:
        raise BadInputError(f"{path} has no prompts")
    return workloads if limit is None else spread(workloads, limit)


def _parse(line: str, where: str, number: int) -> Workload:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInputError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise BadInputError(f"{where}: not a JSON object")
    category = str(row.get("category", "prompts"))
    return Workload(
        str(row.get("id", row.get("question_id", number))), "chat" if category in CHAT_CATEGORIES else category, _messages(row, where)
    )


def _messages(row: dict[str, Any], where: str) -> list[dict[str, str]]:
    messages = row.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages):
        return [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
    turns = row.get("turns")
    prompt = row.get("prompt", turns[0] if isinstance(turns, list) and turns else None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInputError(f"{where}: needs a non-empty 'prompt', 'messages' or 'turns'")
    return [{"role": "user", "content": prompt}]


def spread(workloads: Sequence[Workload], limit: int) -> list[Workload]:
    """`limit` prompts, the same number of each category as far as they go, evenly spaced inside each; always the same ones."""
    groups: dict[str, list[Workload]] = {}
    for workload in workloads:
        groups.setdefault(workload.category, []).append(workload)
    quota = dict.fromkeys(groups, 0)
    for _ in range(min(limit, len(workloads))):
        name = min((name for name in groups if quota[name] < len(groups[name])), key=lambda name: quota[name])
        quota[name] += 1
    return [group[i * len(group) // quota[name]] for name, group in groups.items() for i in range(quota[name])]
