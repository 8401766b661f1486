"""Drafts with a second model (arXiv 2211.17192, 2302.01318): a smaller model, or the first layers of the target.

Each forward pass of the draft model adds one level to the drafts of all requests: one token to a chain, or the children of the `branches`
likeliest nodes to a tree. Its cache, like the engine's, keeps only committed tokens without the last one, so it never needs to be rolled
back. The first forward pass of a step runs every token that the cache lacks. Each further forward pass runs only the newest token of a
chain, on the K/V that the earlier ones have left in the slot, or all nodes of a tree. The K/V of a chain's accepted tokens stay in the slot
and join the cache in the next step, so that nearly all forward passes run one token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import CostlyDrafter, DrafterContext, DraftModel
from outpace.drafters.draft_model.price import DraftPrice
from outpace.drafters.draft_model.vocab_mapping import Translation, translation
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.targets.base import OutOfSlots, TargetOutput
from outpace.tree.builder import TreeBuilder
from outpace.tree.draft import EMPTY_DRAFT, Draft, Verdict, select
from outpace.tree.segment import Segment, Slot, TreeBatch

logger = logging.getLogger("outpace")
PREFILL_CHUNK = 256  # maximum tokens per request in a forward pass that only fills the cache
PATIENCE = 10  # steps of an answer that other drafters get, before the draft model reads its prompt
MAX_CATCH_UP = 16  # maximum tokens that a drafting forward pass adds to a request's cache; more are prefilled first
MIN_SIBLING = 0.03  # siblings with a lower path confidence are not worth a row of the target's forward pass
RECENT, MAX_RARE = 32, 8  # with more rare tokens among the recent ones, as in some languages, rare ones are drafted too
NO_LIMIT = 1 << 30
MAX_NODES = 15  # default budget of a tree; that of a chain is its depth


@dataclass
class _Growth:
    """The draft of one request during drafting, in tokens of the draft model. Node -1 is the last token of `context`."""

    request: Request
    context: list[int]
    slot: Slot
    num_stable: int  # tokens of the context that the cache may keep
    budget: int
    depth: int
    is_chain: bool
    tree: TreeBuilder = field(default_factory=lambda: TreeBuilder(NO_LIMIT))  # all candidates; the best become the draft
    run: list[int] = field(default_factory=list)  # expanded nodes, in the order in which they follow the context
    frontier: list[int] = field(default_factory=lambda: [-1])  # nodes to expand next

    @property
    def is_continued(self) -> bool:
        """Whether the next forward pass runs only the newest token of a chain."""
        return self.is_chain and len(self.run) > 0

    def segment(self) -> Segment:
        """Tokens of the next forward pass: the context tokens without K/V and the nodes in `run`, or only the newest node of a chain."""
        if self.is_continued:
            *before, newest = (self.tree.token_ids[node] for node in self.run)
            return Segment(replace(self.slot, token_ids=[*self.context, *before]), [newest])
        rest = self.context[self.slot.num_cached :]
        row = {-1: len(rest) - 1} | {node: len(rest) + i for i, node in enumerate(self.run)}
        parents = [*range(-1, len(rest) - 1), *(row[self.tree.parents[node]] for node in self.run)]
        tokens = [*rest, *(self.tree.token_ids[node] for node in self.run)]
        is_chain = all(parent == i - 1 for i, parent in enumerate(parents))
        return Segment(self.slot, tokens, None if is_chain else parents)

    def left_in_slot(self, num_passes: int) -> list[int]:
        """The tokens whose K/V the forward passes of a chain have left in the slot, from its first uncached position on."""
        drafted = [self.tree.token_ids[node] for node in self.run[: num_passes - 1]]
        return [*self.context, *drafted][self.slot.num_cached :]

    def missing(self, most: int) -> list[int]:
        """Up to `most` tokens that the cache lacks and may keep."""
        return self.context[self.slot.num_cached : min(self.num_stable, self.slot.num_cached + most)]

    def rows(self) -> list[int]:
        """The rows of the segment whose logits predict the children of the frontier."""
        if self.is_continued:
            return [0]
        last = len(self.context) - self.slot.num_cached - 1
        return [last if node < 0 else last + 1 + self.run.index(node) for node in self.frontier]

    def add(self, parent: int, tokens: Sequence[int], confidences: Sequence[float]) -> None:
        """Add children to a node, the most confident first."""
        path = self.tree.path_confidences()[parent] if parent >= 0 else 1.0
        for rank, (token, confidence) in enumerate(zip(tokens, confidences, strict=True)):
            if rank and path * confidence < MIN_SIBLING:
                break
            self.tree.add(parent, token, confidence)

    def best(self) -> list[int]:
        """The likeliest nodes that fit into the budget, with parents before children."""
        paths = self.tree.path_confidences()
        return sorted(sorted(range(len(paths)), key=lambda node: (-paths[node], node))[: self.budget])


class DraftModelDrafter(CostlyDrafter):
    """path: the draft model, as accepted by --model, or `self` for the target itself; a suffix `:N` uses only its first N layers.

    max_depth: maximum length of a path. branches: 1 drafts a chain, more a tree. min_confidence: nodes with a lower path confidence are
    not expanded; auto derives it from the measured cost of a forward pass of the draft model and the recent speed (price.py).
    vocab=shared: if the tokenizers differ, draft only tokens that both contain, instead of converting through text.
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
        stop = _read_confidence(min_confidence)
        self.draft_model = _load(context, path)
        self.max_depth = max_depth
        model = self.draft_model
        self.fixed_confidence, self.price = stop, DraftPrice(model.pass_cost, model.token_cost, model.reading_cost)
        self.num_passes: dict[str, int] = {}  # request -> forward passes of the draft model in this step
        capabilities = self.draft_model.target.capabilities
        sizes = context.vocab_size, capabilities.vocab_size
        self.translation: Translation = translation(context.tokenizer, self.draft_model.tokenizer, *sizes, vocab == "shared")
        has_trees = context.target.capabilities.tree and capabilities.tree and self.translation.takes_trees
        self.branches = min(branches, capabilities.vocab_size) if has_trees else 1
        self.num_draft_tokens = max(max_depth, min(max_depth * self.branches, MAX_NODES))
        self.slots: dict[str, Slot] = {}  # request -> its slot in the draft model's cache
        self.num_asked: dict[str, int] = {}  # request -> steps in which the draft model was asked to draft
        self.left: dict[str, list[int]] = {}  # request -> tokens whose K/V lie behind the cached ones in its slot

    def propose(self, request: Request, budget: int) -> Draft:
        return self.propose_batch([request], [budget])[0]

    def propose_batch(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        for request in requests:
            self.num_asked[request.id] = self.num_asked.get(request.id, 0) + 1
        started = [self._start(request, budget) for request, budget in zip(requests, budgets, strict=True)]
        growths = [growth for growth in started if growth is not None]
        self._catch_up(growths)
        self._grow(growths)
        return [EMPTY_DRAFT if growth is None else self._finish(growth) for growth in started]

    def read(self, requests: Sequence[Request]) -> None:
        started = [self._start(request, self.max_depth) for request in requests]
        self._catch_up([growth for growth in started if growth is not None])

    @property
    def min_confidence(self) -> float:
        """The lowest path confidence at which a node is expanded."""
        return self.price.min_confidence if self.fixed_confidence is None else self.fixed_confidence

    def gains_more(self, paths: Sequence[float]) -> bool:
        return self.price.net_gain(paths) < self.price.expected_net_gain

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self.price.record_step(len(verdict.path) + 1, len(verdict.draft), self.num_passes.pop(request.id, 0))

    def end(self, request: Request) -> None:
        self.num_passes.pop(request.id, None)
        self.num_asked.pop(request.id, None)
        self._free(request)

    def _free(self, request: Request) -> None:
        self.left.pop(request.id, None)
        slot = self.slots.pop(request.id, None)
        if slot is not None:
            self.draft_model.target.free(slot)

    def _start(self, request: Request, budget: int) -> _Growth | None:
        """Prepare drafting for a request; None if the draft model cannot draft for it now."""
        context = self.translation.to_draft(request.context)
        if context is None:
            return None
        depth = min(budget, request.max_draft_depth, self.max_depth, self.draft_model.target.capabilities.max_len - len(context))
        slot = self._slot(request, context) if depth > 0 else None
        if slot is None:
            return None
        committed = self.translation.to_draft(request.token_ids) if request.unconfirmed else context
        num_stable = max(0, len(committed or ()) - self.translation.num_unstable)
        self._keep_left(request, slot, context[:num_stable])
        if not self._is_worth_reading(num_stable - slot.num_cached, request):
            return None
        return _Growth(request, context, slot, num_stable, budget, depth, self.branches == 1)

    def _is_worth_reading(self, num_tokens: int, request: Request) -> bool:
        """Whether the draft model should read so many tokens now. Alone, or with a fixed confidence, it always drafts."""
        if num_tokens <= MAX_CATCH_UP or self.fixed_confidence is not None or not self.is_helping:
            return True
        if request.stats.num_steps < PATIENCE:
            return False
        num_asked = max(1, self.num_asked.get(request.id, 0))
        return self.price.is_worth_reading(num_tokens, request.num_tokens_left, request.num_output_tokens, num_asked)

    def _keep_left(self, request: Request, slot: Slot, stable: Sequence[int]) -> None:
        """Commit what the last chain left in the slot, as far as the text went on like that."""
        pairs = zip(self.left.pop(request.id, ()), stable[slot.num_cached :], strict=False)
        if kept := [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]:
            self.draft_model.target.accept(slot, kept, range(len(kept)))

    def _catch_up(self, growths: Sequence[_Growth]) -> None:
        """Prefill the caches of all drafts, except for the last few tokens, in shared forward passes."""
        target = self.draft_model.target
        while behind := [growth for growth in growths if growth.num_stable - growth.slot.num_cached > MAX_CATCH_UP]:
            parts = [growth.missing(PREFILL_CHUNK) for growth in behind]
            target.forward([Segment(growth.slot, part, wants_output=False) for growth, part in zip(behind, parts, strict=True)])
            for growth, part in zip(behind, parts, strict=True):
                target.accept(growth.slot, part, range(len(part)))

    def _slot(self, request: Request, context: list[int]) -> Slot | None:
        """The request's slot, which caches a prefix of the context; a new one if the text changed or outgrew it; None without room."""
        target, slot = self.draft_model.target, self.slots.get(request.id)
        room = 2 + self.max_depth * self.branches
        if slot is not None:
            is_prefix = slot.num_cached < len(context) and slot.token_ids == context[: slot.num_cached]
            if is_prefix and self._has_room(slot, len(context) + room):
                return slot
            self._free(request)
        try:
            self.slots[request.id] = slot = target.allocate(len(context) + room, context, request.cache_salt)
        except OutOfSlots:
            return None
        return slot

    def _has_room(self, slot: Slot, num_tokens: int) -> bool:
        """Whether a slot can take so many tokens; grows it if there is room."""
        try:
            if num_tokens > slot.capacity:
                self.draft_model.target.extend(slot, num_tokens)
        except OutOfSlots:
            return False
        return True

    def _grow(self, growths: Sequence[_Growth]) -> None:
        """Add levels to all drafts, with one shared forward pass per level."""
        growing, level = list(growths), 0
        forward = self._forward(growths)
        while growing:
            segments = [growth.segment() for growth in growing]
            logits = forward(segments).logits
            level, start = level + 1, 0
            for growth, segment in zip(growing, segments, strict=True):
                self._expand(growth, logits[start : start + len(segment)])
                start += len(segment)
                if not growth.is_chain:
                    self._accept(growth)
                self.num_passes[growth.request.id] = level
            growing = [growth for growth in growing if growth.frontier and level < growth.depth]
        for growth in growths:
            if growth.is_chain:
                self.left[growth.request.id] = growth.left_in_slot(self.num_passes[growth.request.id])

    def _forward(self, growths: Sequence[_Growth]) -> Callable[[TreeBatch], TargetOutput]:
        """The forward pass of the draft model: for its frequent tokens only, unless one of the texts has many others."""
        target = self.draft_model.target
        num_frequent = target.capabilities.num_frequent
        if all(sum(token >= num_frequent for token in growth.context[-RECENT:]) <= MAX_RARE for growth in growths):
            return target.forward_frequent
        return lambda segments: target.forward(segments, sum(map(len, segments)))

    def _accept(self, growth: _Growth) -> None:
        """Commit the stable tokens to the cache. A chain does so in the next step, with those of its own tokens that were accepted."""
        if stable := growth.missing(MAX_CATCH_UP):
            self.draft_model.target.accept(growth.slot, stable, range(len(stable)))

    def _expand(self, growth: _Growth, logits: Array) -> None:
        """Add the children of the frontier, and choose the next frontier among them."""
        old = len(growth.tree)
        for node, row in zip(growth.frontier, growth.rows(), strict=True):
            growth.add(node, *self._guesses(growth, node, logits[row]))
        paths = growth.tree.path_confidences()
        new = [node for node in growth.best() if node >= old and paths[node] >= self.min_confidence]
        growth.frontier = sorted(sorted(new, key=lambda node: -paths[node])[: self.branches])
        growth.run += growth.frontier

    def _guesses(self, growth: _Growth, node: int, row: Array) -> tuple[Sequence[int], Sequence[float]]:
        """(draft model tokens, confidences) of the children of a node, best first: what the target would draw from the draft model's logits
        [V] with its own processors, settings and noise. Between tokenizers that meet in the text only: the likeliest token."""
        if not self.translation.takes_trees:
            tokens, confidences = likeliest(row, self.branches)
            return tokens.tolist(), confidences.tolist()
        request = growth.request
        path = [*request.unconfirmed.token_ids, *(self.translation.our_token(token) for token in growth.tree.path(node))]
        try:
            found = request.sampler.foresee(self.translation.to_target_row(row), path, len(request.token_ids) + len(path), self.branches)
        except Exception as error:  # of a processor, which fails on the target's logits too and then ends the request
            logger.debug("request %s: a logits processor failed on the logits of the draft model: %r", request.id, error)
            return [], []
        return [self.translation.their_token(token) for token in found[0].tolist()], found[1].tolist()

    def _finish(self, growth: _Growth) -> Draft:
        drafted = select(growth.tree.build(), growth.best())
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
    """Load the draft model that `path` names; a suffix `:N` loads only its first N layers."""
    if context.load_draft_model is None:
        raise BadInputError("draft_model: no draft model can be loaded here")
    name, _, layers = path.rpartition(":")
    if name and layers.isdecimal():
        return context.load_draft_model(name, int(layers))
    return context.load_draft_model(path, None)


def _read_confidence(text: str) -> float | None:
    """Parse min_confidence: a probability, or None for auto. Raises BadInputError."""
    if text == "auto":
        return None
    try:
        confidence = float(text)
    except ValueError:
        confidence = -1.0
    if not 0 <= confidence <= 1:
        raise BadInputError(f"draft_model: min_confidence must be auto or a number from 0 to 1, not {text!r}")
    return confidence
