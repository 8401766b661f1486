"""Write the texts from which the successor table of coder-0.5b is built: its own answers, and instructions with answers of others.

usage: python dev/training/coder_texts.py DATA TEXTS.jsonl     (half an hour on two cores; called again after a stop it goes on)
then:  outpace train recycling --model coder-0.5b --data TEXTS.jsonl --out table --max-tokens 600 --pairs 98304

DATA has the folders gsm8k, gpteacher, self_instruct, vicuna_bench and qmsum, but nothing of Spec-Bench. The table keeps what the
model finds likeliest after each token of a text, so nothing of the texts themselves gets into it. Prompts count, too: they are read anyway.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training_prompts import joined, kept, lines, prompts

from outpace import LLM
from outpace.training.data.answers import write_answers
from outpace.training.data.texts import Prompt

MODEL = "coder-0.5b"
MAX_TOKENS = 144  # of an own answer
SEED = 3
OWN = {  # start of a prompt's id -> number of own answers
    "codegen": 300, "gsm8k": 120, "question": 150, "german": 90, "user_oriented_instructions": 140, "seed_tasks": 120, "roleplay": 90,
    "vicuna": 60, "article": 20, "news": 20, "retrieved": 60, "summary": 50, "qmsum": 30,
}  # fmt: skip
OTHERS = 300  # answers of others, all about code
LENGTHS = range(81, 1200)  # characters of such an answer


def own_prompts(data: Path, llm: LLM) -> list[Prompt]:
    """The prompts that the model answers, mixed."""
    asked = list(prompts(data, kept(), LLM("tiny", "none").tokenizer).items())
    random.Random(SEED).shuffle(asked)
    seen: Counter[str] = Counter()
    found = []
    for name, messages in asked:
        kind = name.partition("-")[0]
        seen[kind] += 1
        if seen[kind] <= OWN[kind]:
            found.append(Prompt(name, messages, llm.tokenizer.encode_chat(messages)))
    return found


def others(data: Path) -> Iterator[list[dict[str, str]]]:
    """Conversations about code that others have written."""
    rows: list[dict[str, Any]] = json.loads((data / "gpteacher" / "codegen-instruct.json").read_text("utf-8"))
    random.Random(SEED).shuffle(rows)
    fitting = [row for row in rows if len(row["response"]) in LENGTHS]
    for row in fitting[:OTHERS]:
        yield [
            {"role": "user", "content": joined(row["instruction"], row.get("input", ""))},
            {"role": "assistant", "content": row["response"]},
        ]


def main() -> None:
    """Write the answers, then all texts in random order."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python dev/training/coder_texts.py DATA TEXTS.jsonl")
    data, out = map(Path, sys.argv[1:])
    llm = LLM(MODEL, "none", engine={"max_num_seqs": 32})
    answers = out.with_suffix(".answers.jsonl")
    write_answers(llm, own_prompts(data, llm), answers, MAX_TOKENS)
    texts = [row["prompt_ids"] + row["token_ids"] for row in lines(answers)]
    for question, answer in others(data):
        texts.append(llm.tokenizer.encode_chat([question]) + llm.tokenizer.encode(answer["content"], add_special_tokens=False))
    random.Random(SEED).shuffle(texts)
    out.write_text("".join(json.dumps({"prompt_ids": ids[:1], "token_ids": ids[1:]}) + "\n" for ids in texts), "utf-8")


if __name__ == "__main__":
    main()
