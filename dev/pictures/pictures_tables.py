"""Draw one real step of each table drafter into docs/pictures/drafters/. usage: python dev/pictures/pictures_tables.py [NAME …]"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text
from rich.tree import Tree
from terminal_svg import TERMINAL_SVG

from outpace import LLM, SamplingParams
from outpace.drafters.base import Drafter
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.tree.draft import Draft, Verdict

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "drafters"
COPYING = """Repeat the following text twice, word by word:

The harbour master wrote every ship that came into the harbour in a long book. When a ship left the harbour, the harbour master
wrote that down too, so that every ship in the long book had two lines."""
ASKING = [
    f"Explain in three sentences why {what}." for what in ("the sky is blue", "the sea is blue", "the sea is salty", "the grass is green")
]
PICTURES = {  # name: (spec, prompts, the picture is of a step of the last one)
    "prompt_lookup": ("prompt_lookup", [COPYING]),
    "suffix": ("suffix", [COPYING]),
    "recycling": ("recycling", ASKING),
    "blind": ("blind:tokens=frequent", [COPYING]),
    "combination": ("suffix+recycling", [*ASKING, COPYING]),
}
COLOURS = {"prompt_lookup": "cyan", "suffix": "cyan", "recycling": "magenta", "suffix+recycling": "yellow", "blind": "cyan"}


@dataclass(frozen=True)
class Step:
    """What one step drafted, and what was accepted."""

    context: list[int]
    draft: Draft
    path: list[int]
    next_token: int

    @property
    def interest(self) -> tuple[bool, int, int]:
        """Steps with branches and something accepted make the best pictures."""
        return bool(self.path) and not self.draft.is_chain, len(self.path), len(self.draft)


class Watcher:
    """Keeps the steps that a drafter takes from now on."""

    def __init__(self, drafter: Drafter):
        self.steps: list[Step] = []
        self.context: list[int] = []
        self.propose, self.observe = drafter.propose_batch, drafter.observe
        drafter.propose_batch, drafter.observe = self.on_propose, self.on_observe  # type: ignore[method-assign]

    def on_propose(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        """Note the text that the draft continues; there is one request at a time."""
        self.context = [] if requests[0].unconfirmed else list(requests[0].token_ids)
        return self.propose(requests, budgets)

    def on_observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        """Note the outcome."""
        if self.context and verdict.next_token is not None:
            self.steps.append(Step(self.context, verdict.draft, verdict.path, verdict.next_token))
        self.observe(request, verdict, output)


def picture(llm: LLM, name: str, step: Step) -> Group:
    """The end of the text, the draft tree with its confidences, and the model's own token."""

    def word(token: int) -> str:
        text = llm.tokenizer.decode([token]) or llm.tokenizer.token_text(token)  # special tokens have a name and no text
        return text.replace("\n", "↵").replace(" ", "·")

    root = Tree(Text("… " + "".join(word(token) for token in step.context[-16:]), "bold"))
    branches = {-1: root}
    accepted = set(step.path)
    sources = step.draft.sources or [name] * len(step.draft)
    for node, (token, parent) in enumerate(zip(step.draft.token_ids, step.draft.parents, strict=True)):
        label = Text(word(token), "bold green" if node in accepted else "dim")
        if step.draft.confidences:
            label.append(f"  {step.draft.confidences[node]:.0%}", "none")
        label.append(f"  {sources[node]}" if step.draft.sources else "", COLOURS.get(sources[node], "none"))
        label.append("  ✓" if node in accepted else "", "bold green")
        branches[node] = branches[parent].add(label)
    branches[step.path[-1] if step.path else -1].add(Text(f"{word(step.next_token)}  the model's own token", "bold blue"))
    told = f"{len(step.draft)} draft tokens, {len(step.path)} accepted: {len(step.path) + 1} tokens in one step."
    scores = " Percent: the drafter's score of a token, given those before it." if step.draft.confidences else ""
    return Group(root, Text(), Text(told + scores, "italic"))


def draw(llm: LLM, name: str) -> None:
    """Run the prompts, choose a step of the last one, save the picture."""
    spec, prompts = PICTURES[name]
    for prompt in prompts:
        watcher = Watcher(llm.strategy(spec).drafter)
        llm.chat([{"role": "user", "content": prompt}], SamplingParams(max_tokens=96), speculative_config=spec)
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    console.print(picture(llm, name, max(watcher.steps, key=lambda step: step.interest)))
    console.save_svg(str(OUT / f"{name}.svg"), title=f"{spec}: one step", code_format=TERMINAL_SVG)


def main() -> None:
    """All pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    llm = LLM("coder-0.5b", speculative_config="none")
    for name in sys.argv[1:] or PICTURES:
        draw(llm, name)


if __name__ == "__main__":
    main()
