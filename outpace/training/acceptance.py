"""Accuracies, the best tree and the expected acceptance length, computed from the ranks of the right tokens in the heads' lists.

ranks [n, K] int: the rank of the right token among the predictions of head k, NUM_RANKS if it is not among them, -1 after the end of the
text.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from outpace.arrays import Array
from outpace.tree.builder import TreeBuilder, by_level, grow_best_first

NUM_RANKS = 10  # predictions of each head that are considered
PRIOR = 8.0  # weight of the marginal accuracy, in rows, where there are few joint hits

Path = tuple[int, ...]


def accuracies(ranks: Array) -> list[list[float]]:
    """[K][NUM_RANKS]: share of rows whose right token is among the first 1, 2, … predictions of each head."""
    rows = []
    for head in ranks.T:
        known = head[head >= 0]
        rows.append([float((known < top).mean()) if len(known) else 0.0 for top in range(1, NUM_RANKS + 1)])
    return rows


def best_tree(ranks: Array, num_nodes: int, prior: float = PRIOR) -> list[list[int]]:
    """The `num_nodes` paths that are right most often, best first, as ranks within each head's list.

    They form the tree of that size with the longest expected acceptance, because each node adds the probability of its path and no path
    is likelier than its parent. The probability of a path is estimated on the rows where all of its tokens are known; a head's overall
    accuracy is added with the weight of `prior` rows.
    """
    overall = _marginals(ranks)
    tree: list[list[int]] = []
    heap: list[tuple[float, Path, Array]] = [
        (-confidence, (rank,), rows) for rank, confidence, rows in _children(ranks, np.arange(len(ranks)), 0, overall, prior)
    ]
    heapify(heap)
    while heap and len(tree) < num_nodes:
        negative, path, rows = heappop(heap)
        tree.append(list(path))
        if len(path) < ranks.shape[1]:
            for rank, confidence, inside in _children(ranks, rows, len(path), overall, prior):
                heappush(heap, (negative * confidence, (*path, rank), inside))
    return tree


def _marginals(ranks: Array) -> Array:
    """[K, NUM_RANKS]: how often each head's prediction of each rank is right."""
    known = np.maximum((ranks >= 0).sum(axis=0), 1)
    return np.stack([(ranks == rank).sum(axis=0) / known for rank in range(NUM_RANKS)], axis=1)


def _children(ranks: Array, rows: Array, depth: int, overall: Array, prior: float) -> Iterator[tuple[int, float, Array]]:
    """(rank, probability given the path so far, rows where it is right as well) of the next level; `rows` are those where the path is
    right."""
    next_ranks = ranks[rows, depth]
    num_known = int((next_ranks >= 0).sum())
    for rank in range(NUM_RANKS):
        inside = rows[next_ranks == rank]
        confidence = (len(inside) + prior * overall[depth, rank]) / max(num_known + prior, 1e-9)
        if confidence > 0:
            yield rank, float(confidence), inside


@dataclass(frozen=True)
class Acceptance:
    """Numbers of tokens and steps of decoding some texts."""

    num_tokens: int
    num_steps: int

    @property
    def mean_length(self) -> float:
        """Mean acceptance length in tokens per step, the target's own token included."""
        return self.num_tokens / max(1, self.num_steps)


def walk(starts: Sequence[int], longest: Callable[[int], int]) -> Acceptance:
    """Simulate decoding. Text i has the rows starts[i] to starts[i + 1] - 1, one per token; `longest(row)` is the number of accepted
    tokens of a draft from that row.

    The first step has no hidden state to draft from, so it yields one token. The engine drafts a little less in the last steps of an
    answer that `max_tokens` cuts off; the simulation ignores this.
    """
    num_tokens = num_steps = 0
    for begin, end in itertools.pairwise(starts):
        row = begin
        num_steps += 1
        while row < end - 1:
            row += 1 + longest(row)
            num_steps += 1
        num_tokens += end - begin
    return Acceptance(num_tokens, num_steps)


def with_tree(ranks: Array, tree: Sequence[Sequence[int]]) -> Callable[[int], int]:
    """A function from a row to the number of accepted tokens of a fixed tree."""
    paths = {tuple(path) for path in tree}

    def longest(row: int) -> int:
        depth = 0
        while depth < ranks.shape[1] and tuple(ranks[row, : depth + 1].tolist()) in paths:
            depth += 1
        return depth

    return longest


def with_likeliest(ranks: Array, confidences: Array, num_nodes: int, threshold: float) -> Callable[[int], int]:
    """A function from a row to the number of accepted tokens of a tree of its likeliest paths. confidences [n, K, NUM_RANKS] are those of
    the heads' predictions."""

    def longest(row: int) -> int:
        levels = [list(enumerate(level)) for level in confidences[row].tolist()]
        draft = grow_best_first(TreeBuilder(num_nodes), by_level(levels), threshold).build()
        children, node, depth = draft.children(), -1, 0
        while depth < len(levels) and (child := children.get(node, {}).get(int(ranks[row, depth]))) is not None:
            node, depth = child, depth + 1
        return depth

    return longest
