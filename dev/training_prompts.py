"""The prompts that the shipped helpers learn from, and the answers that the default model has already written to them.

usage: python dev/training_prompts.py DATA PROMPTS.jsonl [ANSWERS.jsonl]

DATA has the folders gsm8k, gpteacher, self_instruct, vicuna_bench and qmsum; nothing of Spec-Bench. With ANSWERS, the answers kept in
dev/answers.jsonl.xz (greedy, at most 192 tokens, int8) are written as `outpace train … --data ANSWERS.jsonl` reads them.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parent / "answers.jsonl.xz"
SUMMARIES = (
    "Summarize: {}",
    "Please summarize the following meeting transcript.\n\n{}",
    "{}\n\nWhat was decided here?",
    "Read the conversation and give the main points.\n\n{}",
    "{}\n\nWrite a short summary of the text above.",
)
MIN_SPAN, MAX_SPAN = 300, 2400  # characters of a meeting
Prompt = tuple[str, str]  # id, text of the user


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def joined(instruction: str, given: str) -> str:
    """An instruction and what it is about."""
    return f"{instruction}\n\n{given}" if given else instruction


def instructions(data: Path) -> Iterator[Prompt]:
    """Questions and tasks."""
    for i, row in enumerate(lines(data / "gsm8k" / "train.jsonl")):
        yield f"gsm8k-{i}", row["question"]
    for name in ("codegen", "roleplay"):
        for i, row in enumerate(json.loads((data / "gpteacher" / f"{name}-instruct.json").read_text("utf-8"))):
            yield f"{name}-{i}", joined(row["instruction"], row.get("input", ""))
    for name in ("seed_tasks", "user_oriented_instructions"):
        for i, row in enumerate(lines(data / "self_instruct" / f"{name}.jsonl")):
            yield f"{name}-{i}", joined(row["instruction"], row["instances"][0]["input"])
    for i, row in enumerate(lines(data / "vicuna_bench" / "question.jsonl")):
        yield f"vicuna-{i}", row["turns"][0]


def meetings(data: Path, source: random.Random) -> Iterator[Prompt]:
    """Spans of meetings to summarise."""
    number = 0
    for row in lines(data / "qmsum" / "test_even.jsonl"):
        said = [f"{turn['speaker']}: {turn['content']}" for turn in row["meeting_transcripts"]]
        start = 0
        while start < len(said):
            size = source.randint(4, 16)
            span = "\n".join(said[start : start + size])[:MAX_SPAN]
            start += size
            if len(span) > MIN_SPAN:
                yield f"qmsum-{number}", SUMMARIES[number % len(SUMMARIES)].format(span)
                number += 1


def prompts(data: Path) -> dict[str, list[dict[str, str]]]:
    """id -> messages, in the order in which they were answered."""
    source = random.Random(0)
    found = [*instructions(data), *meetings(data, source)]
    source.shuffle(found)
    return {name: [{"role": "user", "content": text}] for name, text in found}


def write_answers(asked: dict[str, list[dict[str, str]]], out: Path) -> None:
    """The kept answers with their prompts, in text and in tokens."""
    from outpace import LLM

    tokenizer = LLM("default", "none").tokenizer
    with lzma.open(KEPT, "rt", encoding="utf-8") as kept, out.open("w", encoding="utf-8") as file:
        for line in kept:
            answer = json.loads(line)
            messages = asked[answer["id"]]
            file.write(json.dumps({**answer, "messages": messages, "prompt_ids": tokenizer.encode_chat(messages)}) + "\n")


def main() -> None:
    """Write the prompts and, if asked to, the answers."""
    data, out, *answers = map(Path, sys.argv[1:])
    asked = prompts(data)
    out.write_text("".join(json.dumps({"id": name, "messages": messages}) + "\n" for name, messages in asked.items()), "utf-8")
    for path in answers:
        write_answers(asked, path)


if __name__ == "__main__":
    main()
