"""Draw one real step of lookahead and of blanks into docs/pictures/drafters/. usage: python dev/pictures/pictures_probes.py"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from terminal_svg import TERMINAL_SVG

from outpace import LLM, SamplingParams
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.blanks.drafter import BlanksDrafter, likeliest
from outpace.drafters.lookahead import Cell, LookaheadDrafter
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.tree.draft import Draft, Verdict
from outpace.verifiers import create_verifier

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "drafters"
MODEL = "tiny"  # has trained mask tokens
PROMPT = "Who wrote Faust, and what is it about? Answer in a few sentences."
ACCEPTED, WRONG, SEED, TEXT = "bold green", "red", "dim", "bold"


@dataclass
class Step:
    """What one step looked like: the text before it, the draft, the accepted path and the tokens it gained."""

    text: list[int]
    draft: Draft
    path: list[int]
    gained: list[int]
    rows: list[list[Cell]]  # of the look-ahead window: (token, is it a seed)
    said: list[list[tuple[int, float]]]  # at the newest cell of each column, or at each blank


class WatchedLookahead(LookaheadDrafter):
    """Notes every step that ran with a full window."""

    def __init__(self, context: DrafterContext):
        super().__init__(context)
        self.steps: list[Step] = []

    def propose(self, request: Request, budget: int) -> Draft:
        draft = super().propose(request, budget)
        self.before = list(request.context), [list(row) for row in self.states[request.id].window.rows]
        return draft

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        asked = self.states[request.id].asked
        super().observe(request, verdict, output)
        text, rows = self.before
        if asked is not None and asked.tops and len(rows) == self.ngram - 1 and asked.root < 0:
            said = [[(cell.token, 1.0)] for cell in self.states[request.id].window.rows[-1]]
            self.steps.append(Step(text, verdict.draft, verdict.path, request.context[len(text) :], rows, said))


class WatchedBlanks(BlanksDrafter):
    """Notes every step."""

    def __init__(self, context: DrafterContext):
        super().__init__(context)
        self.steps: list[Step] = []

    def propose(self, request: Request, budget: int) -> Draft:
        self.before = list(request.context)
        return super().propose(request, budget)

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        said = likeliest(output.logits[-self.count :], 3, self.blanks)
        self.steps.append(Step(self.before, verdict.draft, verdict.path, request.context[len(self.before) :], [], said))
        super().observe(request, verdict, output)


def run(llm: LLM, drafter: Drafter) -> list[int]:
    """The answer to PROMPT."""
    how = Strategy("watched", drafter, create_verifier("exact"), FixedController(drafter.num_draft_tokens))
    messages = [{"role": "user", "content": PROMPT}]
    return llm.chat(messages, SamplingParams(max_tokens=160), speculative_config=how)[0].token_ids


def shown(llm: LLM, token: int) -> str:
    """A token as text, blanks and line ends visible."""
    if token >= llm.target.capabilities.vocab_size:
        return "trained"  # a vector in place of a token
    return str(llm.tokenizer.fast.decode([token], skip_special_tokens=False)).replace(" ", "␣").replace("\n", "⏎")


def words(llm: LLM, tokens: list[int], style: str) -> Text:
    """Tokens of the model as text in one style."""
    return Text(" ".join(shown(llm, token) for token in tokens), style=style)


def draw_lookahead(llm: LLM, step: Step) -> RenderableType:
    """The window over its positions, the draft tokens that were verified, and what the step gained."""
    width, height = len(step.rows[0]), len(step.rows)
    table = Table()
    table.add_column("row")
    for position in range(max(width + height, 1 + len(step.gained))):
        table.add_column("last token" if position == 0 else f"+{position}", justify="center")
    for level, row in enumerate(step.rows):
        cells = [Text()] * level + [Text(shown(llm, token), SEED if is_seed else "") for token, is_seed in row]
        if level == 0:
            cells[0] = Text(shown(llm, step.text[-1]), TEXT)
        table.add_row(f"window {level}", *cells)
    table.add_row("the model says", *[""] * height, *[Text(shown(llm, said[0][0]), "cyan") for said in step.said], end_section=True)
    for number, chain in enumerate(chains(step.draft), 1):
        cells = [Text(shown(llm, step.draft.token_ids[node]), ACCEPTED if node in step.path else WRONG) for node in chain]
        table.add_row(f"draft {number}", "", *cells[: width + height - 1])
    table.add_row("text", Text(shown(llm, step.text[-1]), TEXT), *[Text(shown(llm, token), TEXT) for token in step.gained])
    ngrams = Text("n-grams for the pool: ")
    for number, column in enumerate(zip(*step.rows, [said[0] for said in step.said], strict=True)):
        is_refuted = number == 0 and column[1][0] != step.gained[0]
        is_kept = not is_refuted and not any(is_seed for _, is_seed in column[1:-1])
        ngrams.append("; " if number else "")
        ngrams.append(" ".join(shown(llm, token) for token, _ in column), "cyan" if is_kept else "dim")
        ngrams.append("" if is_kept else " (refuted)" if is_refuted else " (has a seed)")
    title = Text("one forward pass: the window of lookahead tokens above, the draft below", "italic")
    return Group(words(llm, step.text[-12:], "dim"), title, table, ngrams, Text(f"gained {len(step.gained)} tokens in one step"))


def draw_blanks(llm: LLM, step: Step, answer: list[int], place: int) -> RenderableType:
    """Each blank with its three likeliest tokens, and what came in the end."""
    table = Table(title="one forward pass: the last token, then mask tokens", title_justify="left")
    for name in ("input", "position", "token", "the model predicts", "the answer has"):
        table.add_column(name)
    right = answer[place : place + len(step.said) + 1] + [-1] * 4
    root = Text(shown(llm, step.gained[0]), ACCEPTED)
    table.add_row("last token", "0", Text(shown(llm, step.text[-1]), TEXT), root, Text(shown(llm, right[0]), TEXT), end_section=True)
    blanks = list(step.draft.token_ids[-len(step.said) :])
    for i, (blank, level) in enumerate(zip(blanks, step.said, strict=True), 1):
        guesses = Text(", ").join(
            Text(f"{shown(llm, token)} {100 * confidence:.0f}%", ACCEPTED if token == right[i] else WRONG) for token, confidence in level
        )
        table.add_row(f"mask token {i}", f"+{i}", Text(shown(llm, blank), SEED), guesses, Text(shown(llm, right[i]), TEXT))
    return Group(words(llm, step.text[-12:], "dim"), table)


def chains(draft: Draft) -> list[list[int]]:
    """The paths from the root to each leaf, without probes."""
    nodes = range(len(draft) - draft.num_lookahead)
    inner = {draft.parents[node] for node in nodes}
    found = []
    for node in nodes:
        if node not in inner:
            path = [node]
            while draft.parents[path[0]] >= 0:
                path.insert(0, draft.parents[path[0]])
            found.append(path)
    return found


def save(picture: RenderableType, name: str) -> None:
    """Write a picture as docs/pictures/drafters/NAME.svg."""
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
    console.print(picture)
    console.save_svg(str(OUT / f"{name}.svg"), title=f"{name}: a real step of the model {MODEL}", code_format=TERMINAL_SVG)


def main() -> None:
    """Both pictures, each of the step that gained most (the first of these) after the beginning of the answer."""
    llm = LLM(MODEL)
    context = DrafterContext(llm.target, llm.tokenizer)
    lookahead, blanks = WatchedLookahead(context), WatchedBlanks(context)
    run(llm, lookahead)
    save(draw_lookahead(llm, max(lookahead.steps[5:], key=lambda step: len(step.gained))), "lookahead")
    answer = run(llm, blanks)
    start = len(blanks.steps[0].text)
    step = next(step for step in blanks.steps[12:] if not step.path)
    save(draw_blanks(llm, step, answer, len(step.text) - start), "blanks")


if __name__ == "__main__":
    main()
