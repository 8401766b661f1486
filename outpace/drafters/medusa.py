"""Medusa (2401.10774): small trained heads read the model's last hidden state and guess the tokens after the next one.

The hidden state that gave the next token has a say in the tokens after it as well: head 0 guesses the token behind the next one,
head 1 the one behind that, all at once and without knowing what the others guess. So every path through their lists is possible, and
the likeliest are drafted. Heads are trained for one model, `outpace train medusa` makes them; those of other tools are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import DrafterContext, SuccessorSource, grow, heads_folder
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.medusa.imports import load_medusa
from outpace.heads.medusa.weights import medusa_weights
from outpace.heads.runtime import build_heads
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.draft import Draft, Verdict

Level = list[tuple[int, float]]  # one head's guesses, likeliest first, with their chances
TOP = 10  # tokens a head, where no tree asks for more
SHAPES = ("best", "fixed")


class MedusaDrafter(SuccessorSource):
    """path: a folder with heads; empty for those that come with outpace. shape: best (the likeliest paths of each step) or fixed (the tree
    that the heads bring). threshold: guesses less likely than this are not worth their row."""

    requires = Capabilities(tree=True, hidden=True)
    num_draft_tokens = 10
    heads_kind = "medusa"

    def __init__(self, context: DrafterContext, path: str = "", shape: str = "best", threshold: float = 0.02):
        if shape not in SHAPES:
            raise BadInputError(f"medusa: shape must be one of {', '.join(SHAPES)}, not {shape!r}")
        if not 0 < threshold < 1:
            raise BadInputError(f"medusa: threshold must be a number between 0 and 1, not {threshold}")
        helper = _load(context, path)
        if shape == "fixed" and not helper.tree:
            raise BadInputError("medusa: these heads bring no tree; use shape=best")
        self.threshold, self.tree = threshold, helper.tree if shape == "fixed" else None
        top = max([TOP, *(rank + 1 for path in self.tree or () for rank in path)])
        self.heads = build_heads(medusa_weights(helper), context.target.lm_head(), top)
        self.states: dict[str, _State] = {}

    def begin(self, request: Request) -> None:
        self.states[request.id] = _State()

    def propose(self, request: Request, budget: int) -> Draft:
        if self.tree is not None:
            return fixed(self.tree, self._levels(request), budget)
        return grow(lambda path: self.successors(request, path), budget, self.threshold)

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        levels = self._levels(request)
        return levels[len(path)] if len(path) < len(levels) else ()

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        row = verdict.path[-1] + 1 if verdict.path else 0
        if output.hidden is not None:
            self.states[request.id] = _State(_length(request), output.hidden[row].copy())

    def end(self, request: Request) -> None:
        self.states.pop(request.id, None)

    def _levels(self, request: Request) -> list[Level]:
        """What the heads guess after `request.context`, one level a head; run when first asked for, once a step.

        Nothing when the last step was not shown: what is known is of an earlier text then.
        """
        state = self.states[request.id]
        if state.length != _length(request):
            return []
        if state.hidden is not None:
            self._run([state for state in self.states.values() if state.hidden is not None])
        return state.levels

    def _run(self, states: Sequence[_State]) -> None:
        """Run the heads once for all requests that have moved on."""
        tokens, confidences = self.heads(np.array([state.hidden for state in states]))
        for state, *guesses in zip(states, tokens.tolist(), confidences.tolist(), strict=True):
            state.levels = [list(zip(*level, strict=True)) for level in zip(*guesses, strict=True)]
            state.hidden = None


@dataclass
class _State:
    """For a text of `length` tokens: the hidden state [H] that gave its last token, until the heads have made `levels` of it."""

    length: int = 0
    hidden: Array | None = None
    levels: list[Level] = field(default_factory=list)


def _length(request: Request) -> int:
    """Tokens of `request.context`, without making it."""
    return len(request.token_ids) + len(request.unconfirmed)


def fixed(tree: Sequence[Sequence[int]], levels: Sequence[Level], budget: int) -> Draft:
    """The first `budget` paths of a tree, whose entries are ranks within each level; paths that lead past the levels are left out."""
    places: dict[tuple[int, ...], int] = {(): -1}
    guesses: list[tuple[int, float]] = []
    parents: list[int] = []
    for path in tree:
        depth, rank = len(path) - 1, path[-1]
        if len(guesses) < budget and depth < len(levels) and rank < len(levels[depth]):
            places[tuple(path)] = len(guesses)
            parents.append(places[tuple(path[:-1])])
            guesses.append(levels[depth][rank])
    return Draft([token for token, _ in guesses], parents, confidences=[confidence for _, confidence in guesses])


def _load(context: DrafterContext, path: str) -> DraftHeads:
    """The heads in the folder, or those that come with outpace. Raises BadInputError if there are none for this model."""
    return load_medusa(*heads_folder(context, "medusa", path))
