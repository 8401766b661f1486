"""Blanks: mask tokens at the next unknown positions, whose outputs predict the positions after them (2311.13581, 2507.11851).

Each step carries `count` mask tokens in a chain, as lookahead tokens. The model's output at a mask token predicts the position after it,
so one forward pass verifies the old predictions and makes new ones. Untrained, a mask token is an ordinary token of the vocabulary, which
the model never learned to read as a gap: the predictions are poor and show what training has to add. Trained with `outpace train blanks`,
mask tokens are vectors of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from outpace.arrays import Array
from outpace.config import EngineConfig
from outpace.drafters.base import Drafter, DrafterContext, last_position
from outpace.drafters.blanks.kinds import TRAINED, UNTRAINED, Blanks, text_blanks, trained_blanks
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.builder import TreeBuilder, by_level, grow_best_first
from outpace.tree.draft import Draft, Verdict, locate

Level = list[tuple[int, float]]  # tokens for one position with their confidences, best first
WHERE = ("root", "end", "every")


class BlanksDrafter(Drafter):
    """path: a folder with trained mask tokens; empty for those that ship with outpace for this model, or else for `blank`.
    blank: a text (its tokens take turns), eos, pad, newline, last (the token before again) or auto; without a tokenizer a token id.
    count: mask tokens in a row. branches: draft tokens for each position. after: where mask tokens stand, after the root (the last token),
    the end (also after the deepest draft token) or every draft token. 0 picks a default: 3 mask tokens and 1 branch, or all trained mask
    tokens and 4 branches."""

    requires = Capabilities(tree=True, lookahead=True)

    def __init__(
        self, context: DrafterContext, path: str = "", count: int = 0, blank: str = "auto", branches: int = 0, after: str = "root"
    ):
        if count < 0 or branches < 0:
            raise BadInputError(f"blanks: count and branches must be at least 1, not {count} and {branches}")
        if after not in WHERE:
            raise BadInputError(f"blanks: after must be one of {', '.join(WHERE)}, not {after!r}")
        if count > EngineConfig.max_draft_tokens // 2:
            raise BadInputError(f"blanks: count may be {EngineConfig.max_draft_tokens // 2} at most, not {count}")
        if path and blank != "auto":
            raise BadInputError("blanks: trained blanks, or a text in their place; not both")
        trained = trained_blanks(context, path) if blank == "auto" else None
        self.blanks, usual = (text_blanks(context, blank), UNTRAINED) if trained is None else (trained, TRAINED)
        if trained is not None and count > len(trained.tokens):
            raise BadInputError(f"blanks: count may be {len(trained.tokens)} at most, as many as were trained, not {count}")
        self.count = count or (usual.count if trained is None else len(trained.tokens))
        self.branches, self.after = min(branches or usual.branches, context.vocab_size), after
        self.num_draft_tokens = usual.num_draft_tokens or self.count * self.branches
        self.states: dict[str, _State] = {}

    def begin(self, request: Request) -> None:
        self.states[request.id] = _State()

    def propose(self, request: Request, budget: int) -> Draft:
        state, text = self.states[request.id], request.context
        room = EngineConfig.max_draft_tokens - len(request.unconfirmed)
        builder = grow_best_first(TreeBuilder(min(budget, room - self.count)), by_level(state.ahead(len(text))))
        room = min(room - len(builder), EngineConfig.max_draft_tokens)
        anchors = self._add_blanks(builder, text, room, last_position(request))
        state.asked = _Asked(builder.build(), len(request.unconfirmed) - 1, anchors)
        return state.asked.draft

    def _add_blanks(self, builder: TreeBuilder, text: Sequence[int], room: int, last: int) -> list[_Anchor]:
        """Add mask tokens after the last known token and, as `after` says, after draft tokens, while there is room."""
        anchors: list[_Anchor] = []
        for node in self._places(builder):
            position = len(text) - 1 + len(builder.path(node))
            count = min(self.count, room, last - position - 1)  # mask token i is at position + 1 + i and predicts the one after it
            if count < 1:
                continue
            blanks, parent = list[int](), node
            for token in self.blanks.token_ids(text[-1] if node < 0 else builder.token_ids[node], count):
                parent = builder.add_lookahead(parent, token)
                blanks.append(parent)
            anchors.append(_Anchor(node, position, blanks))
            room -= count
        return anchors

    def _places(self, builder: TreeBuilder) -> list[int]:
        """Nodes that get mask tokens, -1 for the last known token."""
        nodes = range(len(builder))
        if self.after == "root" or not nodes:
            return [-1]
        return [-1, *nodes] if self.after == "every" else [-1, max(nodes, key=lambda node: len(builder.path(node)))]

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        state = self.states[request.id]
        asked, state.asked = state.asked, None
        if asked is None:
            return
        state.levels = {}
        places = locate(verdict.draft, asked.draft, asked.root)
        accepted = set(verdict.path)
        for anchor in sorted(asked.anchors, key=lambda anchor: -anchor.position):  # mask tokens after the longest accepted path
            rows = [place + 1 for place in (places[node] for node in anchor.blanks) if place is not None]
            if rows and (anchor.node < 0 or places[anchor.node] in accepted):
                levels = likeliest(output.logits[rows], self.branches, self.blanks)
                state.levels = {anchor.position + 2 + i: level for i, level in enumerate(levels)}
                return

    def end(self, request: Request) -> None:
        self.states.pop(request.id, None)


class _Anchor(NamedTuple):
    """Mask tokens after one node of the draft (-1: the last known token), which stands at `position`."""

    node: int
    position: int
    blanks: list[int]


class _Asked(NamedTuple):
    """The draft of this step, the node it hangs off behind unconfirmed tokens, and where its mask tokens are."""

    draft: Draft
    root: int
    anchors: list[_Anchor]


@dataclass
class _State:
    """What the mask tokens of the last step predicted for each position, and what is asked in this one."""

    levels: dict[int, Level] = field(default_factory=dict)
    asked: _Asked | None = None

    def ahead(self, position: int) -> list[Level]:
        """The levels from `position` on, without a gap; earlier positions have become text."""
        found = []
        while position in self.levels:
            found.append(self.levels[position])
            position += 1
        return found


def likeliest(logits: Array, k: int, blanks: Blanks) -> list[Level]:
    """For each row, of one mask token after another, the `k` likeliest tokens, best first, with their confidences."""
    levels = []
    for number, row in enumerate(logits):
        best = np.argpartition(row, -k)[-k:]
        best = best[np.lexsort((best, -row[best]))]
        weights = row - row[best[0]]
        if number < len(blanks.temperatures):
            weights /= blanks.temperatures[number]
        np.exp(weights, out=weights)
        levels.append(list(zip(best.tolist(), (blanks.trust * weights[best] / weights.sum()).tolist(), strict=True)))
    return levels
