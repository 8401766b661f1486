"""Draw docs/pictures/drafters/auto.svg: the cost of a forward pass on a machine and what auto chose there in a real run.

usage: python dev/pictures/pictures_auto.py             from dev/pictures/measured/auto.json
       python dev/pictures/pictures_auto.py measure     after a run on this machine, about a minute
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator
from stored import document, renew

from outpace import LLM, SamplingParams
from outpace.cli import explain, side_by_side

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "drafters" / "auto.svg"
NUM_SIZES = 11


def measure() -> dict[str, Any]:
    """Summarise the demonstration's document with auto, and note every step."""
    llm = LLM("coder-0.5b", speculative_config="auto")
    messages = [{"role": "user", "content": side_by_side.jobs()[0].prompt}]
    llm.chat([{"role": "user", "content": "Name three rivers."}], SamplingParams(max_tokens=32))  # warms up
    controller = explain.start(llm)
    output = llm.chat(messages, SamplingParams(max_tokens=160))[0]
    costs, steps = controller.policy.costs, controller.steps or []
    return {
        "sizes": list(map(float, costs.sizes[:NUM_SIZES])),
        "milliseconds": [round(float(cost), 2) for cost in costs.alone[:NUM_SIZES]],
        "num_tokens": len(output.token_ids),
        "steps": [{"num_tokens": step.num_tokens, "num_draft_tokens": len(step.taken)} for step in steps],
    }


def draw(measured: dict[str, Any]) -> None:
    """Cost on the left, the steps on the right."""
    plt.switch_backend("svg")
    plt.rcParams.update(
        {"svg.hashsalt": "outpace", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1, 2.2))
    left.plot(measured["sizes"], measured["milliseconds"], marker="o", markersize=3, color="#2b6cb0")
    left.set(xlabel="tokens in the forward pass", ylabel="milliseconds", ylim=(0, None), title="cost of a forward pass here")
    steps, num_tokens = measured["steps"], measured["num_tokens"]
    numbers = range(1, len(steps) + 1)
    right.bar(numbers, [step["num_tokens"] for step in steps], color="#cbd5e0", width=0.9, label="tokens in the forward pass")
    right.bar(numbers, [step["num_draft_tokens"] for step in steps], color="#68d391", width=0.9, label="of them draft tokens")
    for axis in (right.xaxis, right.yaxis, left.xaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="step", title=f"{num_tokens} tokens in {len(steps)} steps, {num_tokens / len(steps):.2f} per step")
    right.set_ylim(0, 1.3 * max(step["num_tokens"] for step in steps))
    right.legend(frameon=False, loc="upper left", ncols=2)
    figure.tight_layout()
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    renew("auto", measure, sys.argv[1:])
    draw(document("auto"))
