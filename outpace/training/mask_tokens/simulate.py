"""Simulate decoding with mask tokens: the steps of the drafter `blanks`, with predictions that are known for every position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from outpace.arrays import Array
from outpace.drafters.blanks.kinds import TRAINED
from outpace.training.acceptance import Acceptance
from outpace.tree.builder import TreeBuilder, by_level, grow_best_first

DRAFT_NODES, DRAFT_BRANCHES = TRAINED.num_draft_tokens, TRAINED.branches


def decode(starts: Sequence[int], ranks: Array, confidences: Array, after: str, num_nodes: int = DRAFT_NODES) -> Acceptance:
    """Numbers of tokens and steps of some texts; text i has the rows starts[i] to starts[i + 1] - 1, one per token.

    ranks [n, m] and confidences [n, m, NUM_RANKS] are those of the mask tokens after the text up to each row, see acceptance.py. A step
    drafts from the mask tokens of the step before: those after the accepted tokens if `after` placed some there, else those after the
    token that was last at that time, whose first predictions are about tokens that are known by now. The engine drafts a little less near
    the end of an answer; the simulation ignores this.
    """
    num_tokens = num_steps = 0
    for begin, end in itertools.pairwise(starts):
        row, num_known = begin, 0  # the first `num_known` predictions are about tokens that are known already
        num_steps += 1
        while row < end - 1:
            anchor = row - num_known
            num_right, has_own = _step(ranks[anchor, num_known:], confidences[anchor, num_known:], after, num_nodes)
            num_known = 0 if has_own else num_right
            row += 1 + num_right
            num_steps += 1
        num_tokens += end - begin
    return Acceptance(num_tokens, num_steps)


def _step(ranks: Array, confidences: Array, after: str, num_nodes: int) -> tuple[int, bool]:
    """(number of accepted tokens of the draft grown from confidences [levels, NUM_RANKS], whether mask tokens follow the last of them)."""
    levels = [list(enumerate(level)) for level in np.asarray(confidences)[:, :DRAFT_BRANCHES].tolist()]
    builder = grow_best_first(TreeBuilder(num_nodes), by_level(levels))
    children, node, depth = builder.build().children(), -1, 0
    while depth < len(levels) and (child := children.get(node, {}).get(int(ranks[depth]))) is not None:
        node, depth = child, depth + 1
    if after == "root" or node < 0:
        return depth, node < 0
    return depth, after == "every" or node == max(range(len(builder)), key=lambda place: len(builder.path(place)))
