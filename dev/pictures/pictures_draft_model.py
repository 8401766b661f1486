"""How much do the first N layers of a model know? Draws docs/pictures/drafters/draft_model.svg.

usage: python dev/pictures/pictures_draft_model.py             from dev/pictures/measured/draft_model.json
       python dev/pictures/pictures_draft_model.py measure PROMPTS.jsonl [LIMIT] [LAYERS,LAYERS,…]     after a run, a few minutes

Every answer is compared with plain decoding, at temperature 0 (chains of three) and at 0.8 with a seed (the drafter's own settings).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from stored import document, renew

from outpace import LLM, SamplingParams
from outpace.bench.workloads import read_prompts

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "drafters" / "draft_model.svg"
DEPTH, MAX_TOKENS, SEED, TOTAL = 3, 96, 7, 30


def measure(path: str = "", limit: str = "12", wanted: str = "8,16,24") -> dict[str, Any]:
    """Tokens per step and cost of a pass for each number of layers."""
    llm, layers = LLM("tiny", "none"), [int(number) for number in wanted.split(",")]
    prompts = [llm.tokenizer.encode_chat(workload.messages) for workload in read_prompts(Path(path), int(limit))]
    plain = {}
    for temperature in (0.0, 0.8):
        params = SamplingParams(max_tokens=MAX_TOKENS, temperature=temperature, seed=SEED)
        plain[temperature] = [output.token_ids for output in llm.generate(prompts, params)]
    lengths, costs = [], []
    for number in layers:
        spec = f"draft_model:self:{number}"
        costs.append(llm.strategy(spec).drafter.draft_model.pass_cost)  # type: ignore[attr-defined]
        sys.stdout.write(f"{spec}: a pass costs {costs[-1]:.2f} of the model's\n")
        lengths.append(length_of(llm, prompts, f"{spec}:max_depth={DEPTH}:min_confidence=0", 0.0, plain[0.0]))
        length_of(llm, prompts, spec, 0.8, plain[0.8])
    return {"layers": layers, "tokens_per_step": lengths, "pass_cost": costs}


def length_of(llm: LLM, prompts: list[list[int]], spec: str, temperature: float, plain: list[list[int]]) -> float:
    """Tokens per step over all prompts; says how many answers are identical to plain decoding."""
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=temperature, seed=SEED)
    outputs = llm.generate(prompts, params, speculative_config=spec)
    num_same = sum(output.token_ids == tokens for output, tokens in zip(outputs, plain, strict=True))
    length = sum(len(output.token_ids) for output in outputs) / sum(output.stats.num_steps for output in outputs)
    sys.stdout.write(f"{spec}, temperature {temperature:g}: {length:.3f} tokens per step, {num_same} of {len(prompts)} identical\n")
    return length


def draw(measured: dict[str, Any]) -> None:
    """Tokens per step, and what the draft tokens of a step cost, over the number of layers."""
    plt.switch_backend("svg")
    plt.rcParams.update({"svg.hashsalt": "outpace", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False})
    layers, needed = measured["layers"], [1 + DEPTH * cost for cost in measured["pass_cost"]]
    gained = f"tokens per step, chains of {DEPTH} (1 = plain decoding, {DEPTH + 1} = all accepted)"
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(layers, measured["tokens_per_step"], "o-", color="#2a7", label=gained)
    axes.plot(layers, needed, "s--", color="#c52", label="tokens per step at which the draft model pays off")
    axes.set(xlabel=f"first N of the model's {TOTAL} layers", ylabel="tokens per step", xticks=layers, ylim=(0.8, DEPTH + 1.8))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)
    figure.tight_layout()
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    renew("draft_model", partial(measure, *sys.argv[2:]), sys.argv[1:])
    draw(document("draft_model"))
