"""How a batch is divided into forward passes of the model, each a rectangle [sequences, tokens], and the arrays of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from outpace.arrays import Array
from outpace.tree.segment import Segment, TreeBatch

MAX_PADDING = 128  # tokens of padding that cost less than another forward pass


@dataclass(frozen=True)
class Piece:
    """The tokens `start` to `end` of a segment of the batch; those before them run in earlier forward passes."""

    index: int  # of the segment in the batch
    segment: Segment
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def base(self) -> int:
        """Rows of the slot in front of the piece."""
        return self.segment.slot.num_cached + self.start


@dataclass(frozen=True)
class Pass:
    """Pieces of different segments that run together, padded to `width` tokens each and to `num_seqs` sequences; `keep` first columns need
    logits, `read` first ones hidden states."""

    pieces: list[Piece]
    num_seqs: int
    width: int
    keep: int
    read: int

    def rounded(self, max_seqs: int) -> Pass:
        """The pass with sizes rounded up to powers of two, at most `max_seqs` sequences, and all columns or none."""
        num_seqs, width = (1 << (size - 1).bit_length() for size in (self.num_seqs, self.width))
        return replace(self, num_seqs=min(num_seqs, max_seqs), width=width, keep=width if self.keep else 0, read=width if self.read else 0)


@dataclass(frozen=True)
class PassArrays:
    """What the model is given for the tokens [B, T]: `numbers` [3, B, T] int64, their ids, positions and rows, and `visible` [B, T, R]
    bool, the rows of its slot that each attends to."""

    numbers: Array
    visible: Array


def passes_of(batch: TreeBatch, exact_width: int | None) -> Iterator[Pass]:
    """The passes of a batch. With `exact_width` each runs one sequence and that many tokens, whatever there is to run."""
    if exact_width:
        for i, segment in enumerate(batch):
            for start in range(0, len(segment), exact_width):
                piece = Piece(i, segment, start, min(start + exact_width, len(segment)))
                keep, read = (exact_width if wants else 0 for wants in (segment.wants_output, segment.wants_hidden))
                yield Pass([piece], 1, exact_width, keep, max(keep, read))
        return
    for group in _groups(batch):
        pieces = [Piece(i, batch[i], 0, len(batch[i])) for i in group]
        keep = max((len(piece) for piece in pieces if piece.segment.wants_output), default=0)
        read = max((len(piece) for piece in pieces if piece.segment.wants_hidden), default=0)
        yield Pass(pieces, len(pieces), max(map(len, pieces)), keep, max(keep, read))


def _groups(batch: TreeBatch) -> list[list[int]]:
    """Indices of the segments of each forward pass. A long prefill chunk runs apart from decode steps, which it would pad
    to its length."""
    groups: list[list[int]] = []
    padding = 0
    for i in sorted(range(len(batch)), key=lambda i: -len(batch[i])):
        padding += len(batch[groups[-1][0]]) - len(batch[i]) if groups else MAX_PADDING + 1
        if padding > MAX_PADDING:
            groups.append([])
            padding = 0
        groups[-1].append(i)
    return groups


def arrays_of(one: Pass, num_rows: int, read_len: int) -> PassArrays:
    """The arrays of a pass over slots of `num_rows` rows, of which `read_len` are read.

    Padding is written behind the rows of its piece, and at the end of a slot into the last row, which holds no text. It attends to itself
    only, because a token that attends to nothing may become NaN; sequences that are padding as a whole attend to the first row.
    """
    width, count = one.width, len(one.pieces)
    numbers = np.zeros((3, one.num_seqs, width), np.int64)
    token_ids, positions, rows = numbers
    bases = np.array([piece.base for piece in one.pieces])
    rows[:count] = np.minimum(bases[:, None] + np.arange(width), num_rows - 1)
    rows[count:] = num_rows - 1
    visible = np.zeros((one.num_seqs, width, read_len), bool)
    visible[count:, :, 0] = True
    for b, piece in enumerate(one.pieces):
        n, base, segment = len(piece), piece.base, piece.segment
        token_ids[b, :n] = segment.token_ids[piece.start : piece.end]
        positions[b, :n] = segment.position_ids[piece.start : piece.end]
        visible[b, :n, : base - piece.start] = True
        visible[b, :n, base - piece.start : base + n] = segment.mask[piece.start : piece.end, : piece.end]
        visible[b, range(n, width), rows[b, n:]] = True
    return PassArrays(numbers, visible)
