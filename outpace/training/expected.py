"""What trained heads or a draft model can be expected to gain on this machine, by the number of draft tokens per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from outpace.controller.cost import CostTable
from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.training.stages import Source, open_llm

PROMPT, NUM_TOKENS = range(1, 9), 24  # of the decoding that times the drafts; the text does not matter
WORTH_IT = 1.02  # least speedup that is called one


@dataclass(frozen=True)
class Shape:
    """Decoding with so many draft tokens per step: `tokens_per_step` on held-out texts, `speedup` over plain decoding on this machine."""

    num_draft_tokens: int
    tokens_per_step: float
    speedup: float


@dataclass(frozen=True)
class Expected:
    """The shapes that were tried, and the spec of the drafter."""

    spec: str
    shapes: Sequence[Shape]

    @property
    def best(self) -> Shape:
        """The fastest shape."""
        return max(self.shapes, key=lambda shape: shape.speedup)

    @property
    def advice(self) -> str:
        """What to expect and which options to use, for people."""
        best = self.best
        count = f"{best.num_draft_tokens} draft token{'s' * (best.num_draft_tokens > 1)} per step"
        if best.speedup < WORTH_IT:
            return (
                f"Expected on this machine: not faster than plain decoding ({best.speedup:.2f} times its speed at best, with {count}). "
                f"--drafter auto:suffix+recycling+{self.spec} drafts with it only where that pays off."
            )
        options = f"--drafter {self.spec} --num-draft-tokens {best.num_draft_tokens}"
        return f"Expected on this machine: {best.speedup:.2f} times the speed of plain decoding, with {count}. Use {options}"

    @property
    def table(self) -> Any:
        """A rich table of the shapes."""
        from rich.table import Table

        table = Table(title="Expected on this machine, decoding alone, texts like the held-out ones")
        for name in ("draft tokens per step", "tokens per step", "speedup over plain"):
            table.add_column(name, justify="right")
        for shape in self.shapes:
            table.add_row(str(shape.num_draft_tokens), f"{shape.tokens_per_step:.2f}", f"{shape.speedup:.2f}")
        return table

    @property
    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"drafter": self.spec, "best": asdict(self.best), "shapes": [asdict(shape) for shape in self.shapes]}


def expected(source: Source, spec: str, lengths: Mapping[str, float], num_lookahead: int = 0) -> Expected:
    """Measure a forward pass of the model and the time of a draft, and divide. `lengths`: tokens per step by number of draft tokens;
    `num_lookahead`: further tokens of each forward pass."""
    llm = open_llm(source)
    sizes = {int(size): length for size, length in lengths.items()}
    drafts = {size: draft_milliseconds(llm, spec, size) for size in sizes}
    costs = llm.strategies.costs
    return Expected(
        spec, [Shape(size, length, speedup(costs, size, length, drafts[size], num_lookahead)) for size, length in sizes.items()]
    )


def speedup(costs: CostTable, num_draft_tokens: int, tokens_per_step: float, draft_ms: float, num_lookahead: int = 0) -> float:
    """Speed with drafts, divided by that of plain decoding: both in tokens per millisecond."""
    step = costs.milliseconds(1 + num_draft_tokens + num_lookahead) + draft_ms
    return round(tokens_per_step * costs.milliseconds(1) / step, 3)


def draft_milliseconds(llm: LLM, spec: str, num_draft_tokens: int) -> float:
    """Mean time that the drafter takes in a step, in milliseconds. The first of two runs warms up."""
    config = {"method": spec, "num_draft_tokens": num_draft_tokens}
    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    for _ in range(2):
        (output,) = llm.generate(list(PROMPT), params, speculative_config=config)
    return 1e3 * output.stats.draft_seconds / max(1, output.stats.num_steps)
