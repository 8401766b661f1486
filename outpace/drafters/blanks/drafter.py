"""Blanks: what does the model say after a placeholder for a word it has not written yet?

Each step carries `count` blanks, a chain of placeholders for the next unknown positions, as probes. The model's answer at a blank is a
guess for the position after it, so one pass checks the old guesses and makes new ones. A blank is an ordinary token of the vocabulary
here, which the model was never taught to read as a gap: the guesses are poor (Apple, 2507.11851), and show what training has to add. With a
helper that `outpace train blanks` has made, blanks are vectors of their own instead of tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from outpace.arrays import Array
from outpace.config import EngineConfig
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.blanks.kinds import TRAINED, UNTRAINED, Blanks, text_blanks, trained_blanks
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.targets.base import Capabilities, TargetOutput
from outpace.tree.draft import Draft, Verdict, locate

Level = list[tuple[int, float]]  # guesses for one position, likeliest first, with their chances
WHERE = ("root", "end", "every")


class BlanksDrafter(Drafter):
    """path: a folder with trained blanks; empty for those that come with outpace, if some do for this model, else for a `blank`.
    blank: a text (its tokens take turns), eos, pad, newline, last (the token before again) or auto; without a tokenizer a token id.
    count: blanks in a row, branches: guesses for each position, after: behind the root (the last token), the end (also the last guess) or
    every guess. 0 and "" are what suits: 3 blanks, 1 branch, root, and with trained blanks all of them and 4 branches."""

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
        draft = grow([*state.ahead(len(text))], min(budget, room - self.count))
        room = min(room - len(draft), EngineConfig.max_draft_tokens)
        last = request.num_prompt_tokens + request.sampling_params.max_tokens - 1  # the last position that will ever be written
        state.asked = self._with_blanks(draft, text, room, last, len(request.unconfirmed) - 1)
        return state.asked.draft

    def _with_blanks(self, draft: Draft, text: Sequence[int], room: int, last: int, root: int) -> _Asked:
        """The draft with blanks behind the last known token and, as `after` says, behind guesses, while there is room."""
        token_ids, parents = list(draft.token_ids), list(draft.parents)
        anchors: list[_Anchor] = []
        for node in self._places(draft):
            depth = depth_of(draft, node)
            position = len(text) - 1 + depth
            count = min(self.count, room, last - position - 1)  # blank i is at position + 1 + i and guesses the one after it
            if count < 1:
                continue
            before = text[-1] if node < 0 else token_ids[node]
            start = len(token_ids)
            token_ids += self.blanks.token_ids(before, count)
            parents += [node, *range(start, start + count - 1)]
            anchors.append(_Anchor(node, position, list(range(start, start + count))))
            room -= count
        num_lookahead = len(token_ids) - len(draft)
        confidences = [*(draft.confidences or ()), *[0.0] * num_lookahead]
        return _Asked(Draft(token_ids, parents, None, num_lookahead, confidences), root, anchors)

    def _places(self, draft: Draft) -> list[int]:
        """Nodes that get blanks, -1 for the last known token."""
        if self.after == "root" or not len(draft):
            return [-1]
        if self.after == "every":
            return [-1, *range(len(draft))]
        return [-1, max(range(len(draft)), key=lambda node: depth_of(draft, node))]

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        state = self.states[request.id]
        asked, state.asked = state.asked, None
        if asked is None:
            return
        state.levels = {}
        places = locate(verdict.draft, asked.draft, asked.root)
        accepted = set(verdict.path)
        for anchor in sorted(asked.anchors, key=lambda anchor: -anchor.position):  # blanks behind the most that held
            rows = [place + 1 for place in (places[node] for node in anchor.blanks) if place is not None]
            if rows and (anchor.node < 0 or places[anchor.node] in accepted):
                levels = likeliest(output.logits[rows], self.branches, self.blanks)
                state.levels = {anchor.position + 2 + i: level for i, level in enumerate(levels)}
                return

    def end(self, request: Request) -> None:
        self.states.pop(request.id, None)


class _Anchor(NamedTuple):
    """Blanks behind one node of the draft (-1: the last known token), which stands at `position`."""

    node: int
    position: int
    blanks: list[int]


class _Asked(NamedTuple):
    """The draft of this step, the node it hangs off once pending tokens lead it, and where its blanks are."""

    draft: Draft
    root: int
    anchors: list[_Anchor]


@dataclass
class _State:
    """What the blanks of the last step said about positions, and what is asked in this one."""

    levels: dict[int, Level] = field(default_factory=dict)
    asked: _Asked | None = None

    def ahead(self, position: int) -> list[Level]:
        """The guesses from `position` on, without a gap; those before it have become text."""
        found = []
        while position in self.levels:
            found.append(self.levels[position])
            position += 1
        return found


def likeliest(logits: Array, k: int, blanks: Blanks) -> list[Level]:
    """For each row, of one blank after another, the `k` likeliest tokens, best first, with their chances."""
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


def grow(levels: Sequence[Level], budget: int) -> Draft:
    """A tree over independent guesses for the next positions, the likeliest paths first. One guess a position makes a chain."""
    token_ids: list[int] = []
    parents: list[int] = []
    confidences: list[float] = []
    heap: list[tuple[float, int, int, int, int, float]] = []  # (-chance of the path, number, depth, parent, token, chance)

    def push(path_confidence: float, depth: int, parent: int) -> None:
        for i, (token, confidence) in enumerate(levels[depth] if depth < len(levels) else ()):
            heapq.heappush(heap, (path_confidence * confidence, (parent + 1) * len(levels[depth]) + i, depth, parent, token, confidence))

    push(-1.0, 0, -1)
    while heap and len(token_ids) < budget:
        path_confidence, _, depth, parent, token, confidence = heapq.heappop(heap)
        token_ids.append(token)
        parents.append(parent)
        confidences.append(confidence)
        push(path_confidence, depth + 1, len(token_ids) - 1)
    return Draft(token_ids, parents, None, 0, confidences)


def depth_of(draft: Draft, node: int) -> int:
    """Tokens from the root to a node, 0 for the root itself."""
    depth = 0
    while node >= 0:
        node, depth = draft.parents[node], depth + 1
    return depth
