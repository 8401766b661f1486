"""Measure what outpace's proposer for vLLM costs vLLM's process: microseconds per request and step, without vLLM.

usage: python dev/measure/vllm_host_cost.py [STEPS] [--page]     (--page writes the table into docs/vllm.md; needs a quiet machine)

The texts are source files of the standard library, cut into words and signs; the next word is always the file's. A row of logits has the
truth on top and noise below. Every step is timed on its own and the median counts, so that a busy machine disturbs little. "hook" is what
noting the likeliest tokens of each row adds on a CPU; a GPU does that by itself.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from outpace.vllm import Proposer

VOCAB_SIZE, NUM_DRAFT_TOKENS, PROMPT, MAX_LEN = 49152, 7, 400, 4096
SPECS = ("suffix", "suffix:memory=100000", "suffix+recycling:table=none")
BATCHES = (1, 8, 32, 64)
PAGE = Path(__file__).parents[2] / "docs" / "vllm.md"
START, END = "<!-- host cost -->\n", "<!-- /host cost -->"


class Logits:
    """As much of a tensor on a CPU as the proposer looks at."""

    device = SimpleNamespace(type="cpu")

    def __init__(self, values: Any):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def float(self) -> Logits:
        return self

    def numpy(self) -> Any:
        return self.values


class Model:
    """Returns the rows it is given."""

    def compute_logits(self, rows: Any) -> Logits:
        return Logits(rows)


def texts(number: int) -> list[list[int]]:
    """Source files as numbers of words."""
    folder, words = Path(sysconfig.get_path("stdlib")), dict[str, int]()
    found: list[list[int]] = []
    for file in sorted(folder.glob("*.py")):
        pieces = re.findall(r"\w+|[^\w\s]|\n *", file.read_text("utf-8", "replace"))[: MAX_LEN - 100]
        if len(pieces) > MAX_LEN // 2:
            found.append([words.setdefault(piece, len(words) % VOCAB_SIZE) for piece in pieces])
        if len(found) == number:
            break
    return found


def proposer(spec: str, num_requests: int) -> Proposer:
    """One that drafts for as many requests."""
    model = SimpleNamespace(
        max_model_len=MAX_LEN, hf_config=SimpleNamespace(eos_token_id=0), get_vocab_size=lambda: VOCAB_SIZE, model="none", revision=None
    )
    options = {"drafter": spec, "max_requests": num_requests}
    return Proposer(
        SimpleNamespace(
            model_config=model,
            speculative_config=SimpleNamespace(num_speculative_tokens=NUM_DRAFT_TOKENS),
            additional_config={"outpace": options},
        )
    )


def measure(spec: str, num_requests: int, num_steps: int) -> dict[str, Any]:
    """One drafter, one batch size."""
    made, model, all_texts = proposer(spec, num_requests), Model(), texts(num_requests)
    made.load_model(model)
    token_ids, lengths = np.zeros((num_requests, MAX_LEN), np.int32), np.full(num_requests, PROMPT, np.int32)
    for row, text in enumerate(all_texts):
        token_ids[row, : len(text)] = text
    noise = np.random.default_rng(0).normal(size=(num_requests * (NUM_DRAFT_TOKENS + 1), VOCAB_SIZE)).astype(np.float32)
    drafts: list[list[int]] = [[] for _ in all_texts]
    times, hooks, num_tokens, num_drafted = list[float](), list[float](), 0, 0
    for _ in range(num_steps):
        sampled, rows, truths = [], 0, list[int]()
        for row, (text, draft) in enumerate(zip(all_texts, drafts, strict=True)):
            here = int(lengths[row])
            num_accepted = next((n for n, token in enumerate(draft) if token != text[here + n]), len(draft))
            sampled.append(text[here : here + num_accepted + 1])
            truths += text[here : here + len(draft) + 1]
            rows += 1 + len(draft)
            lengths[row] += num_accepted + 1
        noise[np.arange(rows), truths] += 12
        before = made.cost.seconds, made.seen.seconds if made.seen else 0.0
        model.compute_logits(noise[:rows])
        drafts = made.propose(sampled, lengths, token_ids)
        noise[np.arange(rows), truths] -= 12
        times.append(made.cost.seconds - before[0])
        hooks.append(made.seen.seconds - before[1] if made.seen else 0.0)
        num_tokens += sum(map(len, sampled))
        num_drafted += sum(map(len, drafts))
        if lengths.max() > MAX_LEN - 120:
            break
    steps = len(times) * num_requests
    return {
        "drafter": spec,
        "requests": num_requests,
        "microseconds": round(1e6 * statistics.median(times) / num_requests, 1),
        "best": round(1e6 * statistics.quantiles(times, n=10)[0] / num_requests, 1),
        "hook": round(1e6 * statistics.median(hooks) / num_requests, 1),
        "tokens_per_step": round(num_tokens / steps, 2),
        "drafted_per_step": round(num_drafted / steps, 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/vllm.md: median and best tenth of the steps."""
    lines = ["| drafter | " + " | ".join(f"{n} request{'s' * (n > 1)}" for n in BATCHES) + " |", "|---" * (1 + len(BATCHES)) + "|"]
    for spec in SPECS:
        cells = [f"{row['microseconds']:.0f}, {row['best']:.0f}" for row in rows if row["drafter"] == spec]
        lines.append(f"| `{spec.removesuffix(':table=none')}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    num_steps = int(next((word for word in sys.argv[1:] if word.isdigit()), "200"))
    found: list[dict[str, Any]] = []
    for spec in SPECS:
        for num_requests in BATCHES:
            found.append(measure(spec, num_requests, num_steps))
            print(json.dumps(found[-1]), flush=True)  # noqa: T201
    if "--page" in sys.argv:
        head, rest = PAGE.read_text("utf-8").split(START)
        PAGE.write_text(head + START + table(found) + END + rest.split(END)[1], "utf-8")
