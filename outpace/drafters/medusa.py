"""Medusa (2401.10774): small trained heads read the model's last hidden state and predict the tokens after the next one.

The hidden state that gave the next token also says something about the tokens after it: head 0 predicts the token after the next one,
head 1 the one after that, all at once and independently. So every path through their lists is possible, and the likeliest are drafted.
Heads are trained for one model with `outpace train medusa`; those of other tools can be read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import DrafterContext, SuccessorSource, num_context_tokens
from outpace.errors import BadInputError
from outpace.heads.format import DraftHeads
from outpace.heads.medusa.imports import load_medusa
from outpace.heads.medusa.weights import medusa_weights
from outpace.heads.runtime import build_heads, num_bytes
from outpace.heads.shipped import heads_folder
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.builder import TreeBuilder
from outpace.tree.draft import Draft, Verdict

Level = list[tuple[int, float]]  # one head's tokens with their confidences, best first
TOP = 10  # tokens per head, unless a fixed tree needs more
SHAPES = ("best", "fixed")


class MedusaDrafter(SuccessorSource):
    """path: a folder with heads; empty for those that ship with outpace. shape: best (the likeliest paths of each step) or fixed (the tree
    that comes with the heads). threshold: paths less likely than this are not drafted."""

    requires = Capabilities(tree=True, hidden=True)
    num_draft_tokens = 10
    heads_kind = "medusa"
    is_coupled = True

    def __init__(self, context: DrafterContext, path: str = "", shape: str = "best", threshold: float = 0.02):
        if shape not in SHAPES:
            raise BadInputError(f"medusa: shape must be one of {', '.join(SHAPES)}, not {shape!r}")
        if not 0 < threshold < 1:
            raise BadInputError(f"medusa: threshold must be a number between 0 and 1, not {threshold}")
        loaded = _load(context, path)
        if shape == "fixed" and not loaded.tree:
            raise BadInputError("medusa: these heads bring no tree; use shape=best")
        self.threshold, self.tree = threshold, loaded.tree if shape == "fixed" else None
        top = max([TOP, *(rank + 1 for path in self.tree or () for rank in path)])
        weights = medusa_weights(loaded)
        self.heads = build_heads(weights, context.target.lm_head(), top)
        self._num_bytes = num_bytes(weights)
        self.states: dict[str, _State] = {}

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def begin(self, request: Request) -> None:
        self.states[request.id] = _State()

    def prepare(self, requests: Sequence[Request]) -> None:
        """Run the heads once for all of these requests that have moved on."""
        states = [state for request in requests if (state := self._state(request)) and state.hidden is not None]
        if not states:
            return
        tokens, confidences = self.heads(np.array([state.hidden for state in states]))
        for state, *lists in zip(states, tokens.tolist(), confidences.tolist(), strict=True):
            state.levels = [list(zip(*level, strict=True)) for level in zip(*lists, strict=True)]
            state.hidden = None

    def propose(self, request: Request, budget: int) -> Draft:
        if self.tree is None:
            return super().propose(request, budget)
        self.prepare([request])
        state = self._state(request)
        return fixed(self.tree, state.levels if state else (), budget)

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        state, depth = self._state(request), len(path)
        return state.levels[depth] if state and depth < len(state.levels) else ()

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        row = verdict.path[-1] + 1 if verdict.path else 0
        if output.hidden is not None:
            self.states[request.id] = _State(num_context_tokens(request), output.hidden[row].copy())

    def end(self, request: Request) -> None:
        self.states.pop(request.id, None)

    def _state(self, request: Request) -> _State | None:
        """What is known of the text as it is now; None if `observe` was skipped and the state is stale."""
        state = self.states[request.id]
        return state if state.length == num_context_tokens(request) else None


@dataclass
class _State:
    """For a text of `length` tokens: the hidden state [H] that gave its last token, until the heads turn it into `levels`."""

    length: int = 0
    hidden: Array | None = None
    levels: list[Level] = field(default_factory=list)


def fixed(tree: Sequence[Sequence[int]], levels: Sequence[Level], budget: int) -> Draft:
    """The first `budget` paths of a tree, given as ranks within each level; paths that lead past the levels are left out."""
    builder = TreeBuilder(budget)
    places: dict[tuple[int, ...], int] = {(): -1}
    for path in tree:
        depth, rank = len(path) - 1, path[-1]
        if depth < len(levels) and rank < len(levels[depth]):
            node = builder.add(places[tuple(path[:-1])], *levels[depth][rank])
            if node is None:
                break
            places[tuple(path)] = node
    return builder.build()


def _load(context: DrafterContext, path: str) -> DraftHeads:
    """The heads in the folder, or those that ship with outpace. Raises BadInputError if there are none for this model."""
    return load_medusa(*heads_folder(context.target.base, "medusa", path))
