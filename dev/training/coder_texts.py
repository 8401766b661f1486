"""Write the texts from which the successor table of coder-0.5b is built: instructions with answers, about half of them code.

usage: python dev/training/coder_texts.py DATA TEXTS.jsonl
then:  outpace train recycling --model coder-0.5b --data TEXTS.jsonl --out table --max-tokens 200 --pairs 49152

DATA has the folders gpteacher and self_instruct. The model reads the texts and the table keeps what it finds likeliest after each token, so
nothing of the texts themselves gets into it. Reading is five times as fast as letting the model write answers of its own.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 3
GPTEACHER = {"codegen": 420, "roleplay": 160}  # name -> number of texts
SELF_INSTRUCT = ("seed_tasks", "user_oriented_instructions")
GPTEACHER_LENGTHS, SELF_INSTRUCT_LENGTHS = range(81, 1200), range(61, 1500)  # characters of an answer


def conversation(instruction: str, given: str, answer: str) -> list[dict[str, str]]:
    """The messages of one text."""
    question = f"{instruction}\n\n{given}" if given else instruction
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def texts(data: Path, source: random.Random) -> Iterator[list[dict[str, str]]]:
    """The conversations whose answers are neither short nor long."""
    for name, count in GPTEACHER.items():
        rows: list[dict[str, Any]] = json.loads((data / "gpteacher" / f"{name}-instruct.json").read_text("utf-8"))
        source.shuffle(rows)
        fitting = [row for row in rows if len(row["response"]) in GPTEACHER_LENGTHS]
        yield from (conversation(row["instruction"], row.get("input", ""), row["response"]) for row in fitting[:count])
    for name in SELF_INSTRUCT:
        for line in (data / "self_instruct" / f"{name}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            example = row["instances"][0]
            if len(example["output"]) in SELF_INSTRUCT_LENGTHS:
                yield conversation(row["instruction"], example["input"], example["output"])


def main() -> None:
    """Write the texts in random order."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python dev/training/coder_texts.py DATA TEXTS.jsonl")
    source = random.Random(SEED)
    found = list(texts(Path(sys.argv[1]), source))
    source.shuffle(found)
    Path(sys.argv[2]).write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in found), "utf-8")


if __name__ == "__main__":
    main()
