"""Write the prompts for the training of the shipped heads, and the answers that the default model has already written to them.

usage: python dev/training/training_prompts.py DATA PROMPTS.jsonl [ANSWERS.jsonl [LATER.jsonl]]

DATA has the folders gsm8k, gpteacher, self_instruct, vicuna_bench and qmsum, but nothing of Spec-Bench. training_kinds.py adds prompts of
further kinds. With ANSWERS, the kept answers (dev/training/answers.jsonl.xz; greedy, at most 192 tokens, int8) to the prompts of the data
folders are written in the format of `outpace train … --data ANSWERS.jsonl`. With LATER, the answers to the other kinds are written, and
some of the first ones again, so that heads whose training continues with them do not forget.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_kinds import PREFIXES, Prompt, with_passages, without_passages

if TYPE_CHECKING:
    from outpace.models.tokenizer import Tokenizer

KEPT = Path(__file__).parent / "answers.jsonl.xz"
SUMMARIES = (
    "Summarize: {}",
    "Please summarize the following meeting transcript.\n\n{}",
    "{}\n\nWhat was decided here?",
    "Read the conversation and give the main points.\n\n{}",
    "{}\n\nWrite a short summary of the text above.",
)
MIN_SPAN, MAX_SPAN = 300, 2400  # characters of a meeting
REPEATED = {"gsm8k": 200, "roleplay": 150, "codegen": 120, "qmsum": 120, "user_oriented_instructions": 100, "seed_tasks": 60, "vicuna": 44}


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def joined(instruction: str, given: str) -> str:
    """Join an instruction and its input."""
    return f"{instruction}\n\n{given}" if given else instruction


def instructions(data: Path) -> Iterator[Prompt]:
    """Prompts with questions and tasks."""
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
    """Prompts with spans of meetings to summarize."""
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


def kept() -> list[dict[str, Any]]:
    """The kept answers: id, token_ids, finish_reason."""
    with lzma.open(KEPT, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def prompts(data: Path, answers: list[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, list[dict[str, str]]]:
    """id -> messages. Prompts about articles need their answers among `answers`."""
    source = random.Random(0)
    found = [*instructions(data), *meetings(data, source)]
    source.shuffle(found)
    written = {answer["id"]: tokenizer.decode(answer["token_ids"]) for answer in answers}
    found += [*without_passages(), *with_passages(written)]
    return {name: [{"role": "user", "content": text}] for name, text in found}


def again(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first answers of each data folder, in the numbers of REPEATED."""
    by_folder: dict[str, list[dict[str, Any]]] = {name: [] for name in REPEATED}
    for answer in answers:
        by_folder[answer["id"].rpartition("-")[0]].append(answer)
    return [answer for name, number in REPEATED.items() for answer in by_folder[name][:number]]


def write_answers(asked: dict[str, list[dict[str, str]]], answers: list[dict[str, Any]], tokenizer: Tokenizer, out: Path) -> None:
    """Write the answers with their prompts, as text and as tokens."""
    with out.open("w", encoding="utf-8") as file:
        for answer in answers:
            messages = asked[answer["id"]]
            file.write(json.dumps({**answer, "messages": messages, "prompt_ids": tokenizer.encode_chat(messages)}) + "\n")


def main() -> None:
    """Write the prompts and, if requested, the answers."""
    from outpace import LLM

    data, out, *copies = map(Path, sys.argv[1:])
    answers, tokenizer = kept(), LLM("tiny", "none").tokenizer
    asked = prompts(data, answers, tokenizer)
    out.write_text("".join(json.dumps({"id": name, "messages": messages}) + "\n" for name, messages in asked.items()), "utf-8")
    first = [answer for answer in answers if not answer["id"].startswith(PREFIXES)]
    later = [answer for answer in answers if answer["id"].startswith(PREFIXES)]
    for path, chosen in zip(copies, (first, [*later, *again(first)]), strict=False):
        write_answers(asked, chosen, tokenizer, path)


if __name__ == "__main__":
    main()
