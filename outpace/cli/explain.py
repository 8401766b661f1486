"""`outpace generate --explain`: the cost table that `auto` uses, and its choice in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from outpace.controller.adaptive import AdaptiveController, Step
from outpace.controller.cost import CostTable
from outpace.errors import BadInputError
from outpace.llm import LLM

NUM_SHOWN = 6  # draft tokens shown per line


def start(llm: LLM) -> AdaptiveController:
    """Make the controller of the default drafter record its choices. Raises BadInputError if it is not that of `auto`."""
    controller = llm.strategy(None).controller
    if not isinstance(controller, AdaptiveController):
        raise BadInputError("--explain explains the choices of auto: add --drafter auto")
    controller.steps = []
    return controller


def render(llm: LLM, controller: AdaptiveController) -> Group:
    """The cost table, the statistics of the drafters, and one line per step."""
    steps = Table(title="steps", box=None, pad_edge=False)
    for heading in ("step", "tokens", "ms", "tokens/ms", "draft tokens (drafter, confidence)"):
        steps.add_column(heading, justify="left" if heading.startswith("draft") else "right")
    for number, step in enumerate(controller.steps or [], start=1):
        steps.add_row(
            str(number), str(step.num_tokens), f"{step.milliseconds:.1f}", f"{step.rate:.3f}", _draft_tokens(step, llm.tokenizer.decode)
        )
    return Group(cost_table(controller.policy.costs), _accounts(controller), steps)


def cost_table(costs: CostTable) -> Table:
    """Milliseconds of a forward pass by tokens, sequences and context."""
    table = Table(title=f"cost of a forward pass, ms (measured {costs.measured_at})")
    for heading in ("tokens", "1 sequence", "8 sequences", "1,000 more tokens of context"):
        table.add_column(heading, justify="right")
    for num_tokens, alone, batched, context in zip(costs.sizes, costs.alone, costs.batched, costs.per_context_token, strict=True):
        table.add_row(f"{num_tokens:g}", f"{alone:.1f}", f"{batched:.1f}", f"+{1000 * context:.1f}")
    table.caption = f"change of the number of tokens: +{costs.switch:.1f} ms"
    return table


def _accounts(controller: AdaptiveController) -> Table:
    table = Table(title="drafters, recent averages")
    for heading in ("drafter", "tokens per step", "ms per step", "state"):
        table.add_column(heading, justify="left" if heading == "drafter" else "right")
    for name, record in controller.drafter_stats.records.items():
        state = f"paused for {record.pause} steps: costs more than it saves" if record.pause else "active"
        table.add_row(name, f"{record.gained:.2f}", f"{record.milliseconds:.2f}", state)
    return table


def _draft_tokens(step: Step, decode: Callable[[Sequence[int]], str]) -> Text:
    text = Text("none" if not step.taken else "")
    for token, source, confidence in step.taken[:NUM_SHOWN]:
        text.append(f"{decode([token])!r} ", "bold")
        text.append(f"{source} {confidence:.2f}  ", "dim")
    if len(step.taken) > NUM_SHOWN:
        text.append(f"and {len(step.taken) - NUM_SHOWN} more  ")
    if step.left:
        text.append(f"| next best {decode([step.left[0]])!r} {step.left[2]:.2f} is not worth verifying", "dim")
    return text
