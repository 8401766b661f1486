"""Split a batch with too many tokens for one forward pass, and join the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from outpace.arrays import Array
from outpace.targets.base import TargetOutput
from outpace.tree.segment import Segment, TreeBatch


def split(batch: TreeBatch, limit: int) -> Iterator[list[Segment]]:
    """Split the batch into pieces of at most `limit` tokens. Chains are cut; trees are not, so a larger tree is a piece by itself.

    The slot of a later piece of a chain already contains the earlier pieces, whose K/V is cached by the time it runs.
    """
    piece: list[Segment] = []
    room = limit
    for segment in batch:
        if piece and (room <= 0 or (segment.parents is not None and len(segment) > room)):
            yield piece
            piece, room = [], limit
        rest, slot = segment, segment.slot
        while rest.parents is None and len(rest) > room:
            head, tail = rest.token_ids[:room], rest.token_ids[room:]
            yield [*piece, replace(rest, token_ids=head)]
            slot = replace(slot, token_ids=[*slot.token_ids, *head])
            rest, piece, room = replace(rest, slot=slot, token_ids=tail), [], limit
        piece.append(rest)
        room -= len(rest)
    yield piece


def join(outputs: Iterable[TargetOutput]) -> TargetOutput:
    """Join the outputs of all pieces into those of one forward pass; each is copied before the next piece overwrites it."""
    logits, hidden, prompt_hidden = [], list[Array](), list[Array]()
    for output in outputs:
        logits.append(output.logits.copy())
        hidden += [] if output.hidden is None else [output.hidden.copy()]
        prompt_hidden += [] if output.prompt_hidden is None else [output.prompt_hidden.copy()]
    states, prompt_states = (np.concatenate(kind) if kind else None for kind in (hidden, prompt_hidden))
    return TargetOutput(np.concatenate(logits), states, prompt_hidden=prompt_states)
