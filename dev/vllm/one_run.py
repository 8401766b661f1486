"""One run of vLLM in this process, in vLLM's environment: reads a job as JSON from stdin, writes what happened as JSON to stdout.

A job: model, prompts (lists of tokens), max_tokens, at_once (1: one prompt after the other), and if wanted: speculative (vLLM's settings),
options (outpace's), spare_blocks (of the K/V cache, beside the prompts'), schema (that every answer must follow), tensor_parallel, dtype,
without_tokenizer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
BLOCK = 32  # tokens
OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM prints to stdout

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402


class Counts:
    """Counts forward passes and draft tokens where the scheduler hands them to the executor, and the time that drafting takes."""

    def __init__(self, llm: LLM):
        self.passes = self.drafted = self.requests = self.preemptions = 0
        self.draft_seconds, self.started = 0.0, time.perf_counter()
        core = llm.llm_engine.engine_core.engine_core
        core.model_executor.execute_model = self._counting(core.model_executor.execute_model)
        core.scheduler._preempt_request = self._preempting(core.scheduler._preempt_request)
        runner = getattr(getattr(core.model_executor, "driver_worker", None), "worker", None)
        self.drafter = getattr(getattr(runner, "model_runner", None), "drafter", None)  # None with several workers
        if self.drafter is not None:
            self.drafter.propose = self._timing(self.drafter.propose)

    def _counting(self, execute: Any) -> Any:
        def counted(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            if scheduled.total_num_scheduled_tokens:
                self.passes += 1
                self.requests += len(scheduled.num_scheduled_tokens)
                self.drafted += sum(len(draft) for draft in scheduled.scheduled_spec_decode_tokens.values())
            return execute(scheduled, *args, **kwargs)

        return counted

    def _preempting(self, preempt: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.preemptions += 1
            return preempt(*args, **kwargs)

        return counted

    def _timing(self, propose: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return propose(*args, **kwargs)
            finally:
                self.draft_seconds += time.perf_counter() - started

        return timed

    def result(self, answers: list[list[int]]) -> dict[str, Any]:
        """The counts since the beginning, with these answers."""
        seen = getattr(self.drafter, "seen", None)
        return {
            "answers": answers,
            "tokens": sum(map(len, answers)),
            "passes": self.passes,
            "draft_tokens": self.drafted,
            "preemptions": self.preemptions,
            "seconds": round(time.perf_counter() - self.started, 2),
            "draft_microseconds": round(1e6 * self.draft_seconds / max(1, self.requests), 1),
            "hook_microseconds": round(1e6 * seen.seconds / max(1, self.requests), 1) if seen else 0.0,
            "is_broken": getattr(self.drafter, "is_broken", None),
        }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load, answer, count."""
    settings: dict[str, Any] = {}
    if "spare_blocks" in job:
        needed = sum(-(-len(prompt) // BLOCK) for prompt in job["prompts"]) + job["spare_blocks"]
        settings |= {"block_size": BLOCK, "num_gpu_blocks_override": max(needed, job.get("max_model_len", 1024) // BLOCK + 2)}
    if job.get("options"):
        settings["additional_config"] = {"outpace": job["options"]}
    llm = LLM(
        job["model"],
        skip_tokenizer_init=job.get("without_tokenizer", False),
        dtype=job.get("dtype", "float32"),
        max_model_len=job.get("max_model_len", 1024),
        max_num_seqs=8,
        enforce_eager=True,
        enable_prefix_caching=False,
        async_scheduling=False,
        tensor_parallel_size=job.get("tensor_parallel", 1),
        speculative_config=job.get("speculative"),
        seed=0,
        **settings,
    )
    guide = StructuredOutputsParams(json=job["schema"]) if job.get("schema") else None
    params = SamplingParams(
        temperature=0, max_tokens=job["max_tokens"], structured_outputs=guide, detokenize=not job.get("without_tokenizer", False)
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    counts = Counts(llm)
    groups = [[prompt] for prompt in prompts] if job["at_once"] == 1 else [prompts]
    outputs = [output for group in groups for output in llm.generate(group, params, use_tqdm=False)]
    found = counts.result([list(output.outputs[0].token_ids) for output in outputs])
    return {**found, "texts": [output.outputs[0].text for output in outputs] if guide else None}


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))), file=OUT, flush=True)
