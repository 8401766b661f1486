"""Compare the gain of drafters that use lookahead tokens with the tokens they run.

usage: python dev/measure/probes_report.py PROMPTS.jsonl [--limit 12] SPEC SPEC …

Reports for each drafter spec (`SPEC@K` sets the number of draft tokens) and temperature: answers identical to plain decoding, tokens per
step, tokens of a forward pass, and how often draft tokens were accepted, by their confidence. Counts only, no times.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from outpace import LLM, SamplingParams
from outpace.bench.workloads import Workload, read_prompts
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter
from outpace.llm import RequestOutput
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.tree.draft import Draft, Verdict
from outpace.verifiers import create_verifier


class Watched(Drafter):
    """Counts the tokens of each forward pass and, for every draft token whose parent was accepted, its confidence and its acceptance."""

    def __init__(self, inner: Drafter):
        self.inner, self.num_draft_tokens = inner, inner.num_draft_tokens
        self.rows: list[int] = []
        self.tried: Counter[int] = Counter()
        self.right: Counter[int] = Counter()

    def begin(self, request: Request) -> None:
        self.inner.begin(request)

    def propose(self, request: Request, budget: int) -> Draft:
        return self.inner.propose(request, budget)

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        draft, path = verdict.draft, {-1, *verdict.path}
        self.rows.append(1 + len(draft))
        for node in range(len(draft) - draft.num_lookahead):
            if draft.confidences and draft.confidences[node] < 1.0 and draft.parents[node] in path:  # 1.0: unconfirmed tokens
                bucket = int(10 * draft.confidences[node])
                self.tried[bucket] += 1
                self.right[bucket] += node in path
        self.inner.observe(request, verdict, output)

    def end(self, request: Request) -> None:
        self.inner.end(request)

    @property
    def calibration(self) -> str:
        return " ".join(f"0.{b}:{self.right[b] / n:.2f}({n})" for b, n in sorted(self.tried.items()))


def run(llm: LLM, workloads: Sequence[Workload], params: SamplingParams, spec: str) -> tuple[list[RequestOutput], Watched]:
    """The answers to all prompts, one at a time, and the drafter with its counts."""
    name, _, count = spec.partition("@")
    drafter = Watched(llm.strategy(name).drafter)
    how = Strategy(spec, drafter, create_verifier("exact"), FixedController(int(count) if count else drafter.num_draft_tokens))
    return [llm.chat(workload.messages, params, speculative_config=how)[0] for workload in workloads], drafter


def main() -> None:
    """Print one line per spec and temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("specs", nargs="+")
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--temperatures", default="0,0.8")
    options = parser.parse_args()
    llm, workloads = LLM("tiny"), read_prompts(options.prompts, options.limit)
    for temperature in map(float, options.temperatures.split(",")):
        params = SamplingParams(temperature=temperature, seed=0, max_tokens=options.max_tokens)
        plain, _ = run(llm, workloads, params, "none")
        for spec in options.specs:
            outputs, drafter = run(llm, workloads, params, spec)
            same = sum(a.token_ids == b.token_ids for a, b in zip(outputs, plain, strict=True))
            length = sum(len(o.token_ids) for o in outputs) / sum(o.stats.num_steps for o in outputs)
            rows = sum(drafter.rows) / len(drafter.rows)
            counts = f"{same}/{len(plain)} identical, {length:.3f} tokens per step, {rows:.1f} tokens per forward pass"
            sys.stdout.write(f"t={temperature:g} {spec:50} {counts}; {drafter.calibration}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
