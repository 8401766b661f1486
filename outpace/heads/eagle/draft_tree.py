"""Draft trees from an EAGLE head, grown best first (EAGLE-2, 2406.16858), for several sequences at once.

The last input of a sequence predicts the first level. Each further level is one call of the head: the likeliest nodes become inputs, with
the output of their parent as the feature. They attend to the sequence and to their own ancestors, and their cache entries are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from outpace.arrays import Array
from outpace.heads.eagle.cache import EagleCache, Row
from outpace.heads.runtime import EagleHead, EagleOutput, EagleRows
from outpace.tree.builder import Path

Tree = dict[Path, list[tuple[int, float]]]  # path from the root -> next tokens with their confidences, likeliest first
FILL = 512  # inputs of a sequence that get keys and values in one call
FILL_STEP = 32  # such calls have a multiple of this width: what OpenVINO prepares for each width takes memory for ever
MAX_TOGETHER = 16  # waiting inputs of a sequence that the first call of a tree runs; any more are run before it


@dataclass(frozen=True)
class TreeShape:
    """max_depth: maximum number of levels. branches: nodes expanded per level. threshold: nodes whose path is less likely are never
    expanded. temperatures [n]: divisors of the logits at depth 1, 2, …; the last one applies to all deeper levels."""

    max_depth: int
    branches: int
    threshold: float
    temperatures: Array

    def temperature(self, depth: int) -> float:
        return float(self.temperatures[min(depth, len(self.temperatures)) - 1])


def fill(head: EagleHead, cache: EagleCache, most: int) -> None:
    """Compute keys and values of waiting inputs until at most `most` are left."""
    while len(cache.waiting) > most:
        at, rows = cache.num_rows, cache.take(min(FILL, len(cache.waiting) - most))
        cache.reserve(cache.num_rows)
        past_keys, past_values = cache.keys[None], cache.values[None]
        call = _Call(1, -(-len(rows) // FILL_STEP) * FILL_STEP, 1, past_keys, len(rows[0].feature))
        for row in rows:
            call.add(0, row)
        found = call.run(head, past_keys, past_values)
        cache.write(at, found.keys[0, :, : len(rows)], found.values[0, :, : len(rows)])


def grow_trees(head: EagleHead, caches: Sequence[EagleCache], shape: TreeShape) -> list[Tree]:
    """Grow one tree per sequence. The last waiting input of each cache must be the last of its sequence. If the head fails, no cache has
    changed."""
    with _restored_on_error(caches):
        growths = []
        for cache in caches:
            fill(head, cache, MAX_TOGETHER)
            growths.append(_Growth(cache, shape))
        batch = _Batch(head, growths, shape)
        batch.first()
        for _ in range(shape.max_depth - 1):
            if any(growth.open for growth in growths):
                batch.level()
    return [growth.tree for growth in growths]


@contextmanager
def _restored_on_error(caches: Sequence[EagleCache]) -> Iterator[None]:
    """After an error the inputs wait again, so that the call can be repeated."""
    before = [(cache.num_rows, cache.waiting) for cache in caches]
    try:
        yield
    except BaseException:
        for cache, (num_rows, waiting) in zip(caches, before, strict=True):
            del cache.positions[num_rows:]
            cache.waiting = waiting
        raise


@dataclass
class _Growth:
    """The tree of one sequence. `rows` and `features`: the cache index and the output [H] of each expanded path."""

    cache: EagleCache
    shape: TreeShape
    tree: Tree = field(default_factory=dict)
    rows: dict[Path, int] = field(default_factory=dict)
    features: dict[Path, Array] = field(default_factory=dict)
    open: list[tuple[float, int, Path]] = field(default_factory=list)  # heap of (-confidence of the path, number, path)
    num_opened: int = 0

    def expand(self, path: Path, path_confidence: float, feature: Array, token_ids: Array, confidences: Array) -> None:
        """Add the children of a path: token_ids and confidences [top], likeliest first."""
        self.features[path] = feature
        self.tree[path] = list(zip(token_ids.tolist(), confidences.tolist(), strict=True))
        if len(path) + 1 < self.shape.max_depth:
            for token, confidence in self.tree[path]:
                if path_confidence * confidence < self.shape.threshold:
                    break
                heappush(self.open, (-path_confidence * confidence, self.num_opened, (*path, token)))
                self.num_opened += 1

    def choose(self) -> list[tuple[Path, float]]:
        """Take the likeliest open nodes, with the confidences of their paths."""
        chosen = [heappop(self.open) for _ in range(min(self.shape.branches, len(self.open)))]
        return [(path, -negative) for negative, _, path in chosen]

    def row(self, path: Path) -> Row:
        """A draft token as an input: its feature is the output of its parent."""
        return Row(self.cache.positions[-1] + len(path), path[-1], self.features[path[:-1]])


class _Batch:
    """The calls that grow several trees together. Shapes stay the same from call to call if possible, because a change costs time."""

    def __init__(self, head: EagleHead, growths: Sequence[_Growth], shape: TreeShape):
        self.head, self.growths, self.shape = head, growths, shape
        self.waiting = [growth.cache.take(len(growth.cache.waiting)) for growth in growths]
        for growth in growths:
            growth.cache.reserve(growth.cache.num_rows + shape.max_depth * shape.branches)
        self.hidden_size = len(self.waiting[0][-1].feature)
        self.past_keys = self._stacked([growth.cache.keys for growth in growths])
        self.past_values = self._stacked([growth.cache.values for growth in growths])

    def first(self) -> None:
        """Run the waiting inputs; the last one of each sequence predicts the first level."""
        width = max(self.shape.branches, *(len(rows) for rows in self.waiting))
        call = self._call(width)
        for text, (growth, rows) in enumerate(zip(self.growths, self.waiting, strict=True)):
            at = growth.cache.num_rows - len(rows)
            for row in rows:
                call.add(text, row)
            call.predict(text, len(rows) - 1, self.shape.temperature(1), slice(at), slice(len(rows)))
        found = call.run(self.head, self.past_keys, self.past_values)
        for text, (growth, rows) in enumerate(zip(self.growths, self.waiting, strict=True)):
            self._write(text, growth.cache.num_rows - len(rows), len(rows), found)
            growth.expand((), 1.0, found.features[text, 0], found.token_ids[text, 0], found.confidences[text, 0])

    def level(self) -> None:
        """Run the likeliest open nodes of each sequence."""
        call = self._call(self.shape.branches)
        levels = [growth.choose() for growth in self.growths]
        for text, (growth, chosen) in enumerate(zip(self.growths, levels, strict=True)):
            for i, (path, _) in enumerate(chosen):
                ancestors = [growth.rows[path[:depth]] for depth in range(1, len(path))]
                call.add(text, growth.row(path))
                call.predict(text, i, self.shape.temperature(len(path) + 1), slice(growth.cache.num_rows), slice(i, i + 1), ancestors)
        found = call.run(self.head, self.past_keys, self.past_values)
        for text, (growth, chosen) in enumerate(zip(self.growths, levels, strict=True)):
            at = growth.cache.num_rows + len(growth.rows)
            self._write(text, at, len(chosen), found)
            for i, (path, confidence) in enumerate(chosen):
                growth.rows[path] = at + i
                growth.expand(path, confidence, found.features[text, i], found.token_ids[text, i], found.confidences[text, i])

    def _call(self, width: int) -> _Call:
        return _Call(len(self.growths), width, self.shape.branches, self.past_keys, self.hidden_size)

    def _write(self, text: int, at: int, count: int, found: EagleOutput) -> None:
        """Store keys and values of the first `count` inputs of a sequence."""
        keys, values = found.keys[text, :, :count], found.values[text, :, :count]
        self.growths[text].cache.write(at, keys, values)
        if len(self.growths) > 1:
            self.past_keys[text, :, at : at + count], self.past_values[text, :, at : at + count] = keys, values

    @staticmethod
    def _stacked(parts: Sequence[Array]) -> Array:
        """Stack [kv_heads, capacity, D] of each sequence; a single one is not copied."""
        if len(parts) == 1:
            return parts[0][None]
        most = max(part.shape[1] for part in parts)
        return np.stack([np.pad(part, ((0, 0), (0, most - part.shape[1]), (0, 0))) for part in parts])


class _Call:
    """The arrays of one call: `width` inputs per sequence, of which up to `num_predicting` predict. Unused entries are masked."""

    def __init__(self, num_texts: int, width: int, num_predicting: int, past_keys: Array, hidden_size: int):
        self.width, self.num_past = width, past_keys.shape[2]
        self.counts, self.num_predicted = [0] * num_texts, [0] * num_texts
        self.token_ids = np.zeros((num_texts, width), np.int64)
        self.features = np.zeros((num_texts, width, hidden_size), np.float32)
        self.positions = np.zeros((num_texts, width), np.float32)
        self.queries = np.zeros((num_texts, num_predicting), np.int32)
        self.visible = np.zeros((num_texts, num_predicting, self.num_past + width), bool)
        self.temperatures = np.ones((num_texts, num_predicting), np.float32)

    def add(self, text: int, row: Row) -> None:
        place = text, self.counts[text]
        self.token_ids[place], self.features[place], self.positions[place] = row.token_id, row.feature, row.position
        self.counts[text] += 1

    def predict(self, text: int, row: int, temperature: float, past: slice, new: slice, ancestors: Sequence[int] = ()) -> None:
        """Request a prediction from one input of a sequence. It attends to the cache entries `past` and `ancestors` and to the inputs `new`
        of this call."""
        place = text, self.num_predicted[text]
        self.queries[place], self.temperatures[place] = text * self.width + row, temperature
        visible = self.visible[place]
        visible[: self.num_past][past] = True
        visible[self.num_past :][new] = True
        visible[list(ancestors)] = True
        self.num_predicted[text] += 1

    def run(self, head: EagleHead, past_keys: Array, past_values: Array) -> EagleOutput:
        rows = (self.token_ids, self.features, self.positions, self.queries)
        return head(EagleRows(*rows, past_keys, past_values, self.visible, self.temperatures))
