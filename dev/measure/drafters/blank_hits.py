"""Measure the predictions of the model at untrained mask tokens.

usage: python dev/measure/drafters/blank_hits.py PROMPTS.jsonl [--limit 12] [--count 3] [BLANK …]

Decodes plainly, with chains of mask tokens of every kind as lookahead tokens. Reports for the i-th mask token how often the right token
(the one after its position) is among the top 1, 10 and 200 predictions, and how often the top prediction is the token of its own position
or the mask token itself.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from outpace import LLM, SamplingParams
from outpace.bench.workloads import read_prompts
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.blanks.kinds import text_blanks
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.tree.draft import Draft, Verdict
from outpace.verifiers import create_verifier

KINDS = ("last", "-", "...", " ...", "_", " the", " and", "newline", "eos", "<|im_start|>")
WITHIN = (1, 10, 200)


class Prober(Drafter):
    """A drafter that knows the answers, drafts only mask tokens of several kinds, and ranks the right tokens at each of them."""

    num_draft_tokens = 1

    def __init__(self, llm: LLM, kinds: Sequence[str], count: int, answers: dict[tuple[int, ...], list[int]]):
        context = DrafterContext(llm.target, llm.tokenizer)
        self.kinds, self.count, self.answers = {kind: text_blanks(context, kind) for kind in kinds}, count, answers
        self.seen: Counter[int] = Counter()
        self.hits: Counter[tuple[str, int, str]] = Counter()
        self.firsts: dict[str, Counter[int]] = {kind: Counter() for kind in kinds}

    def propose(self, request: Request, budget: int) -> Draft:
        token_ids: list[int] = []
        parents: list[int] = []
        for blanks in self.kinds.values():
            parents += [-1, *range(len(token_ids), len(token_ids) + self.count - 1)]
            token_ids += blanks.token_ids(request.context[-1], self.count)
        return Draft(token_ids, parents, num_lookahead=len(token_ids))

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        answer = self.answers[tuple(request.token_ids[: request.num_prompt_tokens])]
        known = request.num_output_tokens  # including the token drawn in this step, answer[known - 1]
        rows = output.logits[1:].reshape(len(self.kinds), self.count, -1) if verdict.draft.num_lookahead else []
        for i in range(self.count):
            if len(rows) and known + i < len(answer):
                self.seen[i] += 1
                for kind, row, blank in zip(self.kinds, rows[:, i], np.reshape(output.token_ids[1:], (-1, self.count))[:, i], strict=True):
                    rank, first = int((row > row[answer[known + i]]).sum()), int(row.argmax())
                    self.firsts[kind][first] += 1
                    for limit in WITHIN:
                        self.hits[kind, i, f"top {limit}"] += rank < limit
                    self.hits[kind, i, "own place"] += first == answer[known + i - 1]
                    self.hits[kind, i, "itself"] += first == blank


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("kinds", nargs="*", default=KINDS)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=96)
    options = parser.parse_args()
    llm, workloads, params = LLM("tiny"), read_prompts(options.prompts, options.limit), SamplingParams(max_tokens=options.max_tokens)
    plain = [llm.chat(workload.messages, params, speculative_config="none")[0] for workload in workloads]
    answers = {tuple(output.prompt_token_ids): output.token_ids for output in plain}
    prober = Prober(llm, options.kinds, options.count, answers)
    how = Strategy("prober", prober, create_verifier("exact"), FixedController(1))
    same = sum(
        llm.chat(w.messages, params, speculative_config=how)[0].token_ids == p.token_ids for w, p in zip(workloads, plain, strict=True)
    )
    columns = [*(f"top {limit}" for limit in WITHIN), "own place", "itself"]
    lines = [f"{same}/{len(plain)} identical; {prober.seen[0]} steps", f"| blank | offset | {' | '.join(columns)} |"]
    for kind in options.kinds:
        for i in range(options.count):
            shares = " | ".join(f"{100 * prober.hits[kind, i, column] / prober.seen[i]:.1f}%" for column in columns)
            lines.append(f"| {kind!r} | {i + 1} | {shares} |")
        common = ", ".join(f"{llm.tokenizer.decode([token])!r} {count}" for token, count in prober.firsts[kind].most_common(8))
        lines.append(f"    most frequent predictions at {kind!r}: {common}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
