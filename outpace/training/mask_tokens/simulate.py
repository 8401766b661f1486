"""Decode texts on paper with blanks: what the drafter `blanks` does, step by step, with guesses that are known for every place."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from outpace.arrays import Array
from outpace.drafters.blanks.kinds import TRAINED
from outpace.training.acceptance import Acceptance
from outpace.tree.builder import TreeBuilder, by_level, grow_best_first

DRAFT_NODES, DRAFT_BRANCHES = TRAINED.num_draft_tokens, TRAINED.branches


def decode(starts: Sequence[int], ranks: Array, confidences: Array, after: str) -> Acceptance:
    """Tokens and steps of some texts; text i has the rows starts[i] to starts[i + 1] - 1, one for each of its tokens.

    ranks [n, m] and chances [n, m, NUM_RANKS]: those of blanks behind the text up to the row, see calibration.py. A step drafts from blanks
    of the step before: those behind the guesses that held, where `after` put some there, else those behind the token that was last then,
    of which the first are about tokens known by now. The engine drafts a little less near the end of an answer; this is not counted here.
    """
    num_tokens = num_steps = 0
    for begin, end in itertools.pairwise(starts):
        row, num_reusable_prefix = begin, 0  # of what the blanks said, `num_reusable_prefix` guesses are about known tokens
        num_steps += 1
        while row < end - 1:
            anchor = row - num_reusable_prefix
            num_right, has_own = _step(ranks[anchor, num_reusable_prefix:], confidences[anchor, num_reusable_prefix:], after)
            num_reusable_prefix = 0 if has_own else num_right
            row += 1 + num_right
            num_steps += 1
        num_tokens += end - begin
    return Acceptance(num_tokens, num_steps)


def _step(ranks: Array, confidences: Array, after: str) -> tuple[int, bool]:
    """(right guesses of the draft that grows from chances [levels, NUM_RANKS], do blanks stand behind the last of them)."""
    levels = [list(enumerate(level)) for level in np.asarray(confidences)[:, :DRAFT_BRANCHES].tolist()]
    builder = grow_best_first(TreeBuilder(DRAFT_NODES), by_level(levels))
    children, node, depth = builder.build().children(), -1, 0
    while depth < len(levels) and (child := children.get(node, {}).get(int(ranks[depth]))) is not None:
        node, depth = child, depth + 1
    if after == "root" or node < 0:
        return depth, node < 0
    return depth, after == "every" or node == max(range(len(builder)), key=lambda place: len(builder.path(place)))
