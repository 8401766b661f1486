"""All drafters on the same prompts in one vLLM, in vLLM's environment: the proposer is exchanged between runs, so that the model is loaded
once and each prompt is run once (prefix cache). Reads a job from stdin, writes a line of JSON after each run.

A job: model, prompts, max_tokens, num_draft_tokens, at_once (8, or 1: one prompt after the other), part (its number), drafters (those to
run; all if not given), done (names of runs to leave out). vLLM's own proposers are the classes that its methods use.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from one_run import OUT, Counts
from vllm import LLM, SamplingParams

from outpace.vllm import Proposer

AGAIN = " again"  # the same prompts, with the drafter that has seen them
NAMES = ("plain", "suffix+recycling", "ngram", "suffix", "vllm-suffix", "suffix:memory=100000", f"suffix:memory=100000{AGAIN}")


class Plain:
    """Drafts nothing."""

    def propose(self, sampled: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        return [[] for _ in sampled]


class Adapted:
    """One of vLLM's own proposers, called as a custom one."""

    def __init__(self, call: Any):
        self.propose = lambda sampled, lengths, token_ids, **_: call(sampled, lengths, token_ids)


def drafter(name: str, runner: Any, config: Any, num_draft_tokens: int) -> Any:
    """A new proposer of this name."""
    if name == "plain":
        return Plain()
    if name == "ngram":
        from vllm.v1.spec_decode.ngram_proposer import NgramProposer

        own = copy.copy(config)
        own.speculative_config = copy.copy(config.speculative_config)
        own.speculative_config.prompt_lookup_min, own.speculative_config.prompt_lookup_max = 2, 3
        ngram = NgramProposer(own)
        return Adapted(lambda sampled, lengths, token_ids: ngram.propose(num_draft_tokens, sampled, lengths, token_ids))
    if name == "vllm-suffix":
        from vllm.v1.spec_decode.suffix_decoding import SuffixDecodingProposer

        suffix = SuffixDecodingProposer(config)
        return Adapted(lambda sampled, *_: suffix.propose(num_draft_tokens, runner.input_batch, sampled))
    config.additional_config = {"outpace": {"drafter": name}}
    made = Proposer(config)
    made.load_model(runner.model)
    return made


def main(job: dict[str, Any]) -> None:
    """Run everything."""
    settings = {"method": "custom_class", "model": "outpace.vllm.Proposer", "num_speculative_tokens": job["num_draft_tokens"]}
    llm = LLM(
        job["model"],
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=8,
        enforce_eager=True,
        enable_prefix_caching=True,
        async_scheduling=False,
        speculative_config=settings,
        seed=0,
    )
    core = llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    params = SamplingParams(temperature=0, max_tokens=job["max_tokens"])
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    execute, preempt = core.model_executor.execute_model, core.scheduler._preempt_request
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)  # fills the prefix cache
    last = ""
    for name in job.get("drafters", NAMES):
        title = f"{'alone' if job['at_once'] == 1 else 'together'} {name}/{job['part']}"
        if title in job["done"] or (name.endswith(AGAIN) and f"{last}{AGAIN}" != name):
            continue
        core.model_executor.execute_model, core.scheduler._preempt_request = execute, preempt
        last = name
        if not name.endswith(AGAIN):
            vars(runner.model).pop("compute_logits", None)
            runner.drafter = drafter(name, runner, llm.llm_engine.vllm_config, job["num_draft_tokens"])
        counts = Counts(llm)
        groups = [[prompt] for prompt in prompts] if job["at_once"] == 1 else [prompts]
        outputs = [output for group in groups for output in llm.generate(group, params, use_tqdm=False)]
        found = counts.result([list(output.outputs[0].token_ids) for output in outputs])
        print(json.dumps({"name": title, **found}), file=OUT, flush=True)


if __name__ == "__main__":
    main(json.load(sys.stdin))
