"""Draw docs/pictures/drafters/auto.svg: the cost of a forward pass on this machine and what auto chose in a real run.

usage: python dev/pictures/pictures_auto.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from outpace import LLM, SamplingParams
from outpace.cli import explain, side_by_side

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "drafters" / "auto.svg"


def main() -> None:
    """Summarise the demonstration's document with auto, note every step, draw."""
    plt.switch_backend("svg")
    plt.rcParams.update({"svg.hashsalt": "outpace", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    llm = LLM("coder-0.5b", speculative_config="auto")
    messages = [{"role": "user", "content": side_by_side.jobs()[0].prompt}]
    llm.chat([{"role": "user", "content": "Name three rivers."}], SamplingParams(max_tokens=32))  # warms up
    controller = explain.start(llm)
    output = llm.chat(messages, SamplingParams(max_tokens=160))[0]
    steps, costs = controller.steps or [], controller.policy.costs
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1, 2.2))
    left.plot(costs.sizes[:11], costs.alone[:11], marker="o", markersize=3, color="#2b6cb0")
    left.set(xlabel="tokens in the forward pass", ylabel="milliseconds", ylim=(0, None), title="cost of a forward pass here")
    numbers = range(1, len(steps) + 1)
    right.bar(numbers, [step.num_tokens for step in steps], color="#cbd5e0", width=0.9, label="tokens in the forward pass")
    right.bar(numbers, [len(step.taken) for step in steps], color="#68d391", width=0.9, label="of them draft tokens")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="step", title=f"{len(output.token_ids)} tokens in {len(steps)} steps, {output.tokens_per_step:.2f} per step")
    right.set_ylim(0, 1.3 * max(step.num_tokens for step in steps))
    right.legend(frameon=False, loc="upper left", ncols=2)
    figure.tight_layout()
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
