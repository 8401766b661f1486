"""Run vLLM with and without outpace's proposer on the same prompts, and compare answers and forward passes.

usage: python dev/vllm/compare.py VENV MODEL OUT.json [PART …]

VENV is a folder outside the project for vLLM's environment, created if missing (3.5 GB). MODEL is a folder that transformers can read, OUT
collects the results: parts that it has are not run again. The parts:"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

from environment import install
from transformers import AutoTokenizer

from outpace.bench.builtin import load_prompts

NUM_PROMPTS, MAX_TOKENS, NUM_DRAFT_TOKENS = 24, 64, 7
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}, "steps": {"type": "array", "items": {"type": "string", "maxLength": 40}}},
    "required": ["title", "steps"],
    "additionalProperties": False,
}
OURS = {"method": "custom_class", "model": "outpace.vllm.Proposer", "num_speculative_tokens": NUM_DRAFT_TOKENS}
HOW = {"speculative": OURS, "options": {"drafter": "suffix+recycling"}}
SWAPPED = {"num_draft_tokens": NUM_DRAFT_TOKENS}
FEW = {"at_once": 8, "num_prompts": 8}
ALONE = {"at_once": 1, "drafters": ("suffix+recycling", "ngram", "suffix", "vllm-suffix", "plain")}
JOBS: dict[str, dict[str, Any]] = {
    "plain": FEW,  # vLLM without any proposer
    **{f"all together/{i}": {**SWAPPED, "at_once": 8, "first": 8 * i, "num_prompts": 8, "part": i} for i in range(3)},
    **{f"all alone/{i}": {**SWAPPED, **ALONE, "first": 4 * i, "num_prompts": 4, "part": i} for i in range(2)},
    "all alone/2": {**SWAPPED, **ALONE, "first": 8, "num_prompts": 16, "part": 2, "max_tokens": 32},  # the rest, shorter
    "preempted": {**HOW, **FEW, "spare_blocks": 4},
    "schema plain": {**FEW, "schema": SCHEMA},
    "schema": {**HOW, **FEW, "schema": SCHEMA},
    "tensor parallel plain": {**FEW, "tensor_parallel": 2},
    "tensor parallel": {**HOW, **FEW, "tensor_parallel": 2},
}
__doc__ += ", ".join(JOBS)


def prompts_of(model: Path) -> list[list[int]]:
    """The built-in coding prompts, in the model's own chat format."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    workloads = load_prompts("builtin:code", NUM_PROMPTS)
    return [tokenizer.apply_chat_template(one.messages, add_generation_prompt=True)["input_ids"] for one in workloads]


def run(python: Path, script: str, job: dict[str, Any], log: Path) -> Iterator[dict[str, Any]]:
    """What happened, as soon as it has. Exits with the log's name if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [python, Path(__file__).with_name(script)], stdin=PIPE, stdout=PIPE, stderr=errors, text=True, env=environment
        )
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            yield from map(json.loads, process.stdout)
            if process.wait():
                sys.exit(f"vLLM failed; its log is {log}")
        finally:
            process.kill()


def main(venv: Path, model: Path, out: Path, parts: list[str]) -> None:
    """Run what is missing and print a line for each part."""
    python, prompts = install(venv), prompts_of(model)
    results: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.exists() else {}
    for part in parts or JOBS:
        if part in results:
            continue
        first = JOBS[part].get("first", 0)
        chosen = prompts[first : first + JOBS[part]["num_prompts"]]
        job = {"model": str(model.absolute()), "max_tokens": MAX_TOKENS, **JOBS[part], "prompts": chosen}
        script = "one_run.py"
        if part.startswith("all "):
            script, job["done"] = "swapped_run.py", list(results)
        for found in run(python, script, job, out.with_name(f"{out.stem}-{part.replace(' ', '-').replace('/', '-')}.log")):
            name = found.pop("name", part)
            results[name] = found
            out.write_text(json.dumps(results), "utf-8")
            print(name, {key: value for key, value in found.items() if key not in ("answers", "texts")}, flush=True)  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # an exit ends vLLM too
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
