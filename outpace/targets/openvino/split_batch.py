"""A batch that is too wide for one pass, in several: cut before it runs, joined after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from outpace.arrays import Array
from outpace.targets.base import TargetOutput
from outpace.tree.segment import Segment, TreeBatch


def pieces(batch: TreeBatch, limit: int) -> Iterator[list[Segment]]:
    """The batch as several, of at most `limit` rows each unless one tree alone has more; chains are cut, trees are not.

    A later piece of a chain stands on a slot that has the earlier ones: their rows are in the cache when it runs.
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


def joined(outputs: Iterable[TargetOutput]) -> TargetOutput:
    """The outputs of all pieces as those of one pass; each is copied before the next piece writes over it."""
    logits, hidden, prompt_hidden = [], list[Array](), list[Array]()
    for output in outputs:
        logits.append(output.logits.copy())
        hidden += [] if output.hidden is None else [output.hidden.copy()]
        prompt_hidden += [] if output.prompt_hidden is None else [output.prompt_hidden.copy()]
    states, prompt_states = (np.concatenate(kind) if kind else None for kind in (hidden, prompt_hidden))
    return TargetOutput(np.concatenate(logits), states, prompt_hidden=prompt_states)
