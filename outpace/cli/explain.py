"""`outpace generate --explain`: the cost table that `auto` uses, what became of its drafts, and its choice in the last steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich.console import Group
from rich.table import Table
from rich.text import Text

from outpace.controller.adaptive import AdaptiveController, Step
from outpace.controller.cost import CostTable
from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.outputs import RequestOutput

NUM_SHOWN = 6  # draft tokens shown per line
NUM_STEPS = 10  # steps shown one by one, the last ones


def start(llm: LLM) -> AdaptiveController:
    """Make the controller of the default drafter record its choices. Raises BadInputError if it is not that of `auto`."""
    controller = llm.strategy(None).controller
    if not isinstance(controller, AdaptiveController):
        raise BadInputError("--explain explains the choices of auto: add --drafter auto")
    controller.steps = []
    return controller


def render(llm: LLM, controller: AdaptiveController, outputs: Sequence[RequestOutput]) -> Group:
    """A line about all steps, the cost table, the drafters, and the last steps one by one."""

    def word(token: int) -> str:
        return llm.tokenizer.decode([token]) or llm.tokenizer.token_text(token)  # special tokens have a name and no text

    steps = controller.steps or []
    table = Table(title=_title(len(steps)), box=None, pad_edge=False)
    for heading in ("step", "tokens", "ms", "tokens/ms", "draft tokens (drafter, confidence)"):
        table.add_column(heading, justify="left" if heading.startswith("draft") else "right")
    for number, step in list(enumerate(steps, start=1))[-NUM_STEPS:]:
        table.add_row(str(number), str(step.num_tokens), f"{step.milliseconds:.1f}", f"{step.rate:.3f}", draft_tokens(step, word))
    return Group(_summary(steps, outputs), cost_table(controller.policy.costs), _drafters(controller, outputs), table)


def _title(num_steps: int) -> str:
    return "steps" if num_steps <= NUM_STEPS else f"the last {NUM_STEPS} of {num_steps} steps"


def _summary(steps: Sequence[Step], outputs: Sequence[RequestOutput]) -> Text:
    """How many steps there were, how many drafted, and what became of the draft tokens."""
    num_tokens = sum(len(output.token_ids) for output in outputs)
    taken = sum(len(step.taken) for step in steps)
    accepted = sum(output.stats.num_accepted_tokens for output in outputs)
    drafted = sum(bool(step.taken) for step in steps)
    text = f"{num_tokens} tokens in {len(steps)} steps, "
    what = f"{drafted} of them with drafts: {taken} draft tokens ran, {accepted} were accepted" if taken else "no drafts"
    return Text(text + what)


def cost_table(costs: CostTable) -> Table:
    """Milliseconds of a forward pass by tokens, sequences and context."""
    table = Table(title=f"cost of a forward pass, ms{_when(costs.measured_at)}")
    for heading in ("tokens", "1 sequence", "8 sequences", "1,000 more tokens of context"):
        table.add_column(heading, justify="right")
    for num_tokens, alone, batched, context in zip(costs.sizes, costs.alone, costs.batched, costs.per_context_token, strict=True):
        table.add_row(f"{num_tokens:g}", f"{alone:.1f}", f"{batched:.1f}", f"+{1000 * context:.1f}")
    table.caption = f"a pass of another number of tokens than the one before: +{costs.switch:.1f} ms"
    return table


def _when(measured_at: str) -> str:
    """For people: the day and the time of a measurement, in UTC."""
    try:
        return f" (measured {datetime.fromisoformat(measured_at).astimezone(UTC):%Y-%m-%d %H:%M} UTC)"
    except ValueError:
        return ""


def _drafters(controller: AdaptiveController, outputs: Sequence[RequestOutput]) -> Table:
    """One row per drafter: its draft tokens that ran and that are in the text, and whether it is worth its time. A token that several
    drafters proposed counts for each."""
    ran = Counter(name for step in controller.steps or [] for _, sources, _ in step.taken for name in sources.split("+"))
    accepted = Counter(name for output in outputs for sources in output.sources if sources for name in sources.split("+"))
    caption = "A token that several drafters proposed counts for each of them. Gains and times are averages of the latest steps."
    table = Table(title="drafters", caption=caption)
    for heading in ("drafter", "ran", "in the text", "tokens gained per step", "ms per step", "state"):
        table.add_column(heading, justify="left" if heading in ("drafter", "state") else "right")
    for name, record in controller.drafter_stats.records.items():
        state = f"paused for {record.pause} steps: costs more than it saves" if record.pause else "active"
        table.add_row(name, str(ran[name]), str(accepted[name]), f"{record.gained:.2f}", f"{record.milliseconds:.2f}", state)
    return table


def draft_tokens(step: Step, word: Callable[[int], str]) -> Text:
    """The tokens that a step drafted, and the best one that it did not run; `word` gives a token as it is shown."""
    text = Text("none" if not step.taken else "")
    for token, source, confidence in step.taken[:NUM_SHOWN]:
        text.append(f"{word(token)!r} ", "bold")
        text.append(f"{source} {confidence:.2f}  ", "dim")
    if len(step.taken) > NUM_SHOWN:
        text.append(f"and {len(step.taken) - NUM_SHOWN} more  ")
    if step.left:
        text.append(f"| next best {word(step.left[0])!r} {step.left[2]:.2f} is not worth verifying", "dim")
    return text
