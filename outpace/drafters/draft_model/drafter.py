"""A helper model drafts (2211.17192, 2302.01318): a smaller model, or the first layers of the same one, writes ahead.

Each pass of the helper adds one level to the draft: one token for a chain, the children of the `branches` likeliest nodes for a tree.
Its cache holds committed tokens only, and never the last one, as the engine's does. So nothing is ever rolled back, and nothing can be
missing after full acceptance: the first pass of a step runs every token the cache lacks, and all passes run the nodes drafted so far
again, which is a few rows and no pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import Drafter, DrafterContext, DraftModel
from outpace.drafters.draft_model.vocab_mapping import Translation, translation
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.targets.base import OutOfSlots
from outpace.tree.draft import EMPTY_DRAFT, Draft, select
from outpace.tree.segment import Segment, Slot

PREFILL_CHUNK = 256  # rows of a pass that only fills the cache
MAX_CATCH_UP = 16  # rows that a drafting pass may run for the cache; more are prefilled first
MIN_SIBLING = 0.03  # an alternative less likely than this is not worth the row it takes in the target's pass
MAX_NODES = 15  # default budget of a tree; a chain's is its depth
MAX_STOP = 0.9  # whoever asks for a helper that costs as much as the target gets at least its first guess


@dataclass
class _Growth:
    """One request's draft while it grows, in the helper's tokens. Node -1 is the last token of `context`."""

    request: Request
    context: list[int]
    slot: Slot
    num_stable: int  # tokens of the context that the cache may keep
    budget: int
    depth: int
    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    paths: list[float] = field(default_factory=list)  # chance of the node and all its ancestors
    run: list[int] = field(default_factory=list)  # nodes that have been expanded or are now: the rows behind the context's
    frontier: list[int] = field(default_factory=lambda: [-1])  # nodes whose children come next

    def segment(self) -> Segment:
        """The context's tokens without K/V, then the nodes in `run`."""
        rest = self.context[self.slot.num_cached :]
        row = {-1: len(rest) - 1} | {node: len(rest) + i for i, node in enumerate(self.run)}
        parents = [*range(-1, len(rest) - 1), *(row[self.parents[node]] for node in self.run)]
        tokens = [*rest, *(self.token_ids[node] for node in self.run)]
        is_chain = all(parent == i - 1 for i, parent in enumerate(parents))
        return Segment(self.slot, tokens, None if is_chain else parents)

    def rows(self) -> list[int]:
        """The rows of the segment whose logits say the frontier's children."""
        last = len(self.context) - self.slot.num_cached - 1
        return [last if node < 0 else last + 1 + self.run.index(node) for node in self.frontier]

    def add(self, parent: int, tokens: Array, confidences: Array) -> None:
        """Children of a node, likeliest first."""
        path = self.paths[parent] if parent >= 0 else 1.0
        for rank, (token, confidence) in enumerate(zip(tokens.tolist(), confidences.tolist(), strict=True)):
            if rank and path * confidence < MIN_SIBLING:
                break
            self.token_ids.append(token)
            self.parents.append(parent)
            self.confidences.append(confidence)
            self.paths.append(path * confidence)

    def best(self) -> list[int]:
        """The likeliest nodes that fit into the budget, parents first."""
        return sorted(sorted(range(len(self.paths)), key=lambda node: (-self.paths[node], node))[: self.budget])


class DraftModelDrafter(Drafter):
    """path: a model (as --model takes it, or `self` for the target's own), with `:N` its first N layers only.

    max_depth: longest chain. branches: 1 drafts a chain, more a tree. min_confidence: nodes less likely than this, all their ancestors
    included, are not expanded; auto is what a pass of the helper costs in passes of the target. vocab=shared: of a helper with another
    tokenizer use the tokens both have, instead of going by way of text.
    """

    def __init__(
        self,
        context: DrafterContext,
        path: str,
        max_depth: int = 7,
        branches: int = 1,
        min_confidence: str = "auto",
        vocab: str = "auto",
    ):
        if max_depth < 1 or branches < 1:
            raise BadInputError(f"draft_model: max_depth and branches must be at least 1, not {max_depth} and {branches}")
        if vocab not in ("auto", "shared"):
            raise BadInputError(f"draft_model: vocab must be auto or shared, not {vocab!r}")
        stop = _read_chance(min_confidence)
        self.helper = _load(context, path)
        self.max_depth = max_depth
        self.min_confidence = min(self.helper.pass_cost, MAX_STOP) if stop is None else stop
        capabilities = self.helper.target.capabilities
        sizes = context.vocab_size, capabilities.vocab_size
        self.translation: Translation = translation(context.tokenizer, self.helper.tokenizer, *sizes, vocab == "shared")
        has_trees = context.target.capabilities.tree and capabilities.tree and self.translation.takes_trees
        self.branches = min(branches, capabilities.vocab_size) if has_trees else 1
        self.num_draft_tokens = max(max_depth, min(max_depth * self.branches, MAX_NODES))
        self.slots: dict[str, Slot] = {}  # request -> its place in the helper's cache

    def propose(self, request: Request, budget: int) -> Draft:
        growth = self._start(request, budget)
        if growth is None:
            return EMPTY_DRAFT
        self._grow([growth])
        return self._finish(growth)

    def end(self, request: Request) -> None:
        slot = self.slots.pop(request.id, None)
        if slot is not None:
            self.helper.target.free(slot)

    def _start(self, request: Request, budget: int) -> _Growth | None:
        """What the helper is to continue, its cache filled but for the last few tokens; None where it cannot draft."""
        context = self.translation.to_helper(request.context)
        if context is None:
            return None
        left = request.num_tokens_left - 1 - len(request.unconfirmed)
        depth = min(budget, left, self.max_depth, self.helper.target.capabilities.max_len - len(context))
        slot = self._slot(request, context) if depth > 0 else None
        if slot is None:
            return None
        sure = self.translation.to_helper(request.token_ids) if request.unconfirmed else context
        growth = _Growth(request, context, slot, max(0, len(sure or ()) - self.translation.num_unsure), budget, depth)
        while growth.num_stable - slot.num_cached > MAX_CATCH_UP:
            part = context[slot.num_cached : min(growth.num_stable, slot.num_cached + PREFILL_CHUNK)]
            self.helper.target.forward([Segment(slot, part, wants_output=False)])
            self.helper.target.accept(slot, part, range(len(part)))
        return growth

    def _slot(self, request: Request, context: list[int]) -> Slot | None:
        """The request's slot, which holds a prefix of the context; a new one where the text has changed or outgrown it."""
        target, slot = self.helper.target, self.slots.get(request.id)
        room = 2 + self.max_depth * self.branches
        if slot is not None:
            is_prefix = slot.num_cached < len(context) and slot.token_ids == context[: slot.num_cached]
            if is_prefix and len(context) + room <= slot.capacity:
                return slot
            self.end(request)
        size = min(len(context) + request.num_tokens_left, target.capabilities.max_len) + room
        if size > target.max_cached_tokens:
            return None
        try:
            self.slots[request.id] = slot = target.allocate(size, context)
        except OutOfSlots:
            return None
        return slot

    def _grow(self, growths: Sequence[_Growth]) -> None:
        """Add level after level to all drafts together, one pass of the helper a level."""
        target, level = self.helper.target, 0
        growing = list(growths)
        while growing:
            logits = target.forward([growth.segment() for growth in growing]).logits
            level, start = level + 1, 0
            for growth in growing:
                size = len(growth.context) - growth.slot.num_cached + len(growth.run)
                self._expand(growth, logits[start : start + size])
                start += size
                stable = growth.context[growth.slot.num_cached : growth.num_stable]
                if stable:
                    target.accept(growth.slot, stable, range(len(stable)))
            growing = [growth for growth in growing if growth.frontier and level < growth.depth]

    def _expand(self, growth: _Growth, logits: Array) -> None:
        """Give the frontier its children, and choose the next frontier among them."""
        old = len(growth.token_ids)
        for node, row in zip(growth.frontier, growth.rows(), strict=True):
            places, confidences = likeliest(logits[row][self.translation.columns], self.branches)
            growth.add(node, self.translation.token_at(places), confidences)
        new = [node for node in growth.best() if node >= old and growth.paths[node] >= self.min_confidence]
        growth.frontier = sorted(sorted(new, key=lambda node: -growth.paths[node])[: self.branches])
        growth.run += growth.frontier

    def _finish(self, growth: _Growth) -> Draft:
        drafted = select(Draft(growth.token_ids, growth.parents, confidences=growth.confidences), growth.best())
        draft = self.translation.to_target(growth.request.context, growth.context, drafted)
        return draft if len(draft) <= growth.budget else select(draft, range(growth.budget))


def likeliest(row: Array, k: int) -> tuple[Array, Array]:
    """(places [k], probabilities [k]) of the k largest logits of a row [V], largest first."""
    k = min(k, len(row))
    places = row.argmax(axis=0, keepdims=True) if k == 1 else np.argpartition(row, -k)[-k:]
    places = places[np.lexsort((places, -row[places]))]
    weights = np.exp(row - row[places[0]])
    return places, weights[places] / weights.sum()


def _load(context: DrafterContext, path: str) -> DraftModel:
    """The helper that `path` names: a model, or with `:N` at the end its first N layers."""
    if context.load_draft_model is None:
        raise BadInputError("draft_model: no helper model can be loaded here")
    name, _, layers = path.rpartition(":")
    if name and layers.isdecimal():
        return context.load_draft_model(name, int(layers))
    return context.load_draft_model(path, None)


def _read_chance(text: str) -> float | None:
    """A probability, or None for auto."""
    if text == "auto":
        return None
    try:
        confidence = float(text)
    except ValueError:
        confidence = -1.0
    if not 0 <= confidence <= 1:
        raise BadInputError(f"draft_model: min_confidence must be auto or a number from 0 to 1, not {text!r}")
    return confidence
