"""check_target: tests that every token of a forward pass attends to its prefix and ancestors alone, whatever else runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.targets.base import TargetModel
from outpace.testing.harness import Prompt, require
from outpace.tree.segment import Segment, Slot

PARENTS = (-1, 0, 0, 1, 2, 2, 5, 3)  # the tree that is tested; node 0 is the root, the last token of the prompt
KEPT = (0, 2, 5, 6)  # a path that is no prefix of the segment
ROOM = 64


def check_target(target: TargetModel, prompt: Prompt, tolerance: float = 0.0, tree_tolerance: float = 0.5) -> None:
    """Trees, accept(), ragged batches, chunked prefill and reused slots give the logits of a fresh plain run.

    `prompt` needs 4 tokens or more; `tolerance` is the largest allowed difference of a logit (0: bit-identical).
    A target without trees is checked on chains. On targets with `exact_logits` but not `exact_trees`, tokens that do not stand right behind
    their ancestors, and tokens after them, may differ by `tree_tolerance`. Raises AssertionError.
    """
    require(len(prompt) >= 4, "check_target needs a prompt of 4 tokens or more")
    bench = _Bench(target, list(prompt), tolerance, tree_tolerance if target.capabilities.confirms_branches else tolerance)
    for check in (bench.check_shape, bench.check_prefill, bench.check_rows, bench.check_accept, bench.check_ragged, bench.check_reuse):
        check()
    if target.capabilities.hidden:
        bench.check_hidden()


class _Bench:
    """One target and one prompt, with what all checks share."""

    def __init__(self, target: TargetModel, prompt: list[int], tolerance: float, tree_tolerance: float):
        self.target, self.prompt, self.tolerance, self.tree_tolerance = target, prompt, tolerance, tree_tolerance
        self.vocab_size = target.capabilities.vocab_size
        self.parents = PARENTS if target.capabilities.tree else tuple(range(-1, len(PARENTS) - 1))
        self.kept = KEPT if target.capabilities.tree else tuple(range(len(KEPT)))
        self.tree = [prompt[-1], *((prompt[i % len(prompt)] + i) % self.vocab_size for i in range(1, len(PARENTS)))]

    def fill(self, tokens: Sequence[int], chunk: int = 1 << 20) -> Slot:
        """A new slot that holds these tokens, prefilled `chunk` at a time."""
        slot = self.target.allocate(len(tokens) + ROOM)
        for start in range(0, len(tokens), chunk):
            part = list(tokens[start : start + chunk])
            self.target.forward([Segment(slot, part, wants_output=False)])
            self.target.accept(slot, part, range(len(part)))
        return slot

    def run(self, *segments: Segment) -> list[Array]:
        """The logits of each segment, copied."""
        logits, ends = self.target.forward(list(segments)).logits, np.cumsum([len(s) for s in segments if s.wants_output])
        return [part.copy() for part in np.split(np.asarray(logits), ends[:-1])]

    def fresh(self, tokens: Sequence[int]) -> Array:
        """The logits after these tokens: everything prefilled but the last one, which runs alone."""
        slot = self.fill(tokens[:-1])
        (rows,) = self.run(Segment(slot, [tokens[-1]]))
        self.target.free(slot)
        return np.asarray(rows[0])

    def path(self, node: int) -> list[int]:
        """Nodes from the root's child down to this node."""
        return [] if node <= 0 else [*self.path(self.parents[node]), node]

    def same(self, got: Array, want: Array, what: str, nodes: Sequence[int] = ()) -> None:
        """`nodes` lead from the root's child to the token: displaced if they do not stand right behind each other."""
        tolerance = self.tolerance if list(nodes) == list(range(1, len(nodes) + 1)) else self.tree_tolerance
        gap = float(np.abs(np.asarray(got, np.float64) - want).max())
        require(gap <= tolerance, f"{what}: logits differ by {gap:g}, more than {tolerance:g}")

    def check_shape(self) -> None:
        slot = self.fill(self.prompt[:-1])
        logits = self.target.forward([Segment(slot, self.prompt[-1:])]).logits
        require(logits.shape == (1, self.vocab_size), f"logits of one row have shape {logits.shape}, not {(1, self.vocab_size)}")
        require(logits.dtype == np.float32, f"logits are {logits.dtype}, not float32")
        self.target.free(slot)

    def check_prefill(self) -> None:
        want = self.fresh(self.prompt)
        for chunk in (1, 2, 3):
            slot = self.fill(self.prompt[:-1], chunk)
            require(slot.num_cached == len(self.prompt) - 1, f"after keep() num_cached is {slot.num_cached}, not {len(self.prompt) - 1}")
            (rows,) = self.run(Segment(slot, self.prompt[-1:]))
            self.same(rows[0], want, f"prefill in chunks of {chunk} against prefill in one piece")
            self.target.free(slot)

    def check_rows(self) -> None:
        slot = self.fill(self.prompt[:-1])
        (rows,) = self.run(Segment(slot, self.tree, self.parents))
        for node in range(len(self.tree)):
            path = self.path(node)
            want = self.fresh([*self.prompt, *(self.tree[n] for n in path)])
            self.same(rows[node], want, f"row of node {node} against its path run plainly", path)
        self.target.free(slot)

    def check_accept(self) -> None:
        slot, text = self.fill(self.prompt[:-1]), list(self.prompt)
        for turn in ("first", "second"):
            self.run(Segment(slot, [text[-1], *self.tree[1:]], self.parents))
            path = [self.tree[node] for node in self.kept[1:]]
            self.target.accept(slot, [text[-1], *path], self.kept)
            text += [*path, self.prompt[0]]
            (rows,) = self.run(Segment(slot, [text[-1], self.prompt[1]]))
            what = f"row after the {turn} keep() of a path against a fresh run"
            self.same(rows[0], self.fresh(text), f"the {what}", self.kept[1:])
            self.same(rows[1], self.fresh([*text, self.prompt[1]]), f"the second {what}", self.kept[1:])
        self.target.free(slot)

    def check_ragged(self) -> None:
        texts = [self.prompt, self.prompt[:2], self.prompt[::-1]]
        slots = [self.fill(text[:-1]) for text in texts]
        drafts = [([text[-1], *self.tree[1:n]], self.parents[:n]) for text, n in zip(texts, (8, 1, 5), strict=True)]
        segments = [Segment(slot, *draft) for slot, draft in zip(slots, drafts, strict=True)]
        alone = [self.run(segment)[0] for segment in segments]
        guest = self.target.allocate(ROOM)
        together = self.run(segments[0], Segment(guest, self.prompt[:3], wants_output=False), *segments[1:])
        for got, want in zip(together, alone, strict=True):
            self.same(got, want, "rows of a ragged batch against the same rows alone")
        self.target.free(guest)
        self.target.free(slots[1])
        for i in (0, 2):
            self.same(self.run(segments[i])[0], alone[i], "rows after another slot was freed")
            self.target.free(slots[i])

    def check_hidden(self) -> None:
        """Hidden states of prompt tokens equal those that come with their logits, and do not shift the rows of others."""
        slots = [self.fill(self.prompt[:1]) for _ in range(3)]
        part = self.prompt[1:]
        alone = [np.array(rows) for rows in self._hidden(Segment(slots[0], part))[:1]]
        mixed = [Segment(slots[0], part[:2]), Segment(slots[1], part, wants_output=False, wants_hidden=True)]
        silent = [Segment(slots[2], part[:1], wants_output=False), *mixed[::-1]]
        for batch in (mixed, mixed[1:], silent):
            rows, prompt_rows = self._hidden(*batch)
            require(prompt_rows is not None and len(prompt_rows) == len(part), "hidden states of a prompt are missing")
            self.same(prompt_rows, alone[0], "hidden states of a prompt against those that come with logits")
            if len(batch) > 1:
                self.same(rows, alone[0][:2], "hidden states beside those of a prompt")
        require(self._hidden(mixed[0])[1] is None, "there are hidden states of a prompt that nobody asked for")
        for slot in slots:
            self.target.free(slot)

    def _hidden(self, *batch: Segment) -> tuple[Any, Any]:
        """(hidden states of the segments with outputs, those of prompts) after one forward pass."""
        output = self.target.forward(list(batch))
        return output.hidden, output.prompt_hidden

    def check_reuse(self) -> None:
        want = self.fresh(self.prompt)
        self.target.free(self.fill(self.prompt[::-1]))
        for _ in range(2):
            slot = self.target.allocate(len(self.prompt) + ROOM, self.prompt)
            start = slot.num_cached
            require(start < len(self.prompt), f"allocate() says all {start} tokens of the prompt are cached; the last must always run")
            if part := self.prompt[start:-1]:
                self.target.forward([Segment(slot, part, wants_output=False)])
                self.target.accept(slot, part, range(len(part)))
            (rows,) = self.run(Segment(slot, self.prompt[-1:]))
            self.same(rows[0], want, f"a reused slot with {start} tokens found in the cache against a fresh one")
            self.target.free(slot)
        slot = self.target.allocate(len(self.prompt) + ROOM, self.prompt, "another salt")
        require(not slot.num_cached, f"allocate() found {slot.num_cached} tokens that a slot of another cache_salt stored")
        self.target.free(slot)
