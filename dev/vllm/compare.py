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
from fnmatch import fnmatch
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
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ngram": {
        "speculative": {
            "method": "ngram",
            "num_speculative_tokens": NUM_DRAFT_TOKENS,
            "prompt_lookup_min": 2,
            "prompt_lookup_max": 3,
        }
    },
    "vllm-suffix": {"speculative": {"method": "suffix", "num_speculative_tokens": NUM_DRAFT_TOKENS}},
    "suffix": {"speculative": OURS, "options": {"drafter": "suffix"}},
    "suffix-memory": {"speculative": OURS, "options": {"drafter": "suffix:memory=100000"}},
    "suffix+recycling": {"speculative": OURS, "options": {"drafter": "suffix+recycling"}},
}
JOBS: dict[str, dict[str, Any]] = {
    **{f"together {name}/{i}": {**how, "at_once": 8, "first": 8 * i, "num_prompts": 8} for i in range(3) for name, how in METHODS.items()},
    **{f"alone {name}/{i}": {**how, "at_once": 1, "first": 4 * i, "num_prompts": 4} for i in range(6) for name, how in METHODS.items()},
    "preempted/0": {**METHODS["suffix+recycling"], "at_once": 8, "num_blocks": 60, "num_prompts": 8},
    "schema plain": {"at_once": 8, "schema": SCHEMA, "num_prompts": 8},
    "schema": {**METHODS["suffix+recycling"], "at_once": 8, "schema": SCHEMA, "num_prompts": 8},
    "tensor parallel plain": {"at_once": 8, "tensor_parallel": 2, "num_prompts": 8},
    "tensor parallel": {**METHODS["suffix+recycling"], "at_once": 8, "tensor_parallel": 2, "num_prompts": 8},
}
__doc__ += ", ".join(JOBS)


def prompts_of(model: Path) -> list[list[int]]:
    """The built-in coding prompts, in the model's own chat format."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    workloads = load_prompts("builtin:code", NUM_PROMPTS)
    return [tokenizer.apply_chat_template(one.messages, add_generation_prompt=True)["input_ids"] for one in workloads]


def run(python: Path, jobs: list[dict[str, Any]], log: Path) -> Iterator[dict[str, Any]]:
    """What happened in each job, in one process. Exits with the log's name if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [python, Path(__file__).with_name("one_run.py")]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=errors, text=True, env=environment)
        try:
            for job in jobs:
                process.stdin.write(json.dumps(job) + "\n")
            process.stdin.close()
            for _ in jobs:
                line = process.stdout.readline()
                if not line:
                    sys.exit(f"vLLM failed; its log is {log}")
                yield json.loads(line)
            process.wait()
        finally:
            process.kill()


def main(venv: Path, model: Path, out: Path, parts: list[str]) -> None:
    """Run what is missing and print a line for each part."""
    python, prompts = install(venv), prompts_of(model)
    results: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.exists() else {}
    missing = [name for name in JOBS if name not in results and (not parts or any(fnmatch(name, part) for part in parts))]
    jobs = []
    for name in missing:
        first, number = JOBS[name].get("first", 0), JOBS[name]["num_prompts"]
        jobs.append({"model": str(model.absolute()), "prompts": prompts[first : first + number], "max_tokens": MAX_TOKENS, **JOBS[name]})
    for name, found in zip(missing, run(python, jobs, out.with_suffix(".log")), strict=True):
        results[name] = found
        out.write_text(json.dumps(results), "utf-8")
        print(name, {key: value for key, value in found.items() if key not in ("answers", "texts")}, flush=True)  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # an exit ends vLLM too
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
