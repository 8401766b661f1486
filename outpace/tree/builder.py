"""Builds one draft tree node by node: out of several drafts, and best first from successors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush

from outpace.tree.draft import UNKNOWN_CONFIDENCE, Draft, path_products

Path = tuple[int, ...]
Successor = tuple[int, float] | tuple[int, float, str]  # token, confidence given the path, source
Successors = Callable[[Path], Iterable[Successor]]


class TreeBuilder:
    """A draft tree of at most `budget` nodes, in the order in which they are added. Node -1 is the root, the last known token.

    `confidences[node]` is the confidence of a node given its parent. Builders are in the hot path of every step, so paths and their
    confidences are computed only on request.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.token_ids: list[int] = []
        self.parents: list[int] = []
        self.confidences: list[float] = []
        self.sources: list[str] = []
        self.num_lookahead = 0
        self._nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node

    def __len__(self) -> int:
        return len(self.token_ids)

    def path(self, node: int) -> Path:
        """Tokens from the root to a node, () for the root."""
        tokens: list[int] = []
        while node >= 0:
            tokens.append(self.token_ids[node])
            node = self.parents[node]
        return tuple(reversed(tokens))

    def path_confidences(self) -> list[float]:
        """The confidence of each node's whole path."""
        return path_products(self.parents, self.confidences)

    def add(self, parent: int, token: int, confidence: float = UNKNOWN_CONFIDENCE, source: str = "") -> int | None:
        """The node of `token` below `parent`; None if there is no room for it.

        A node that another source has added is not added again: the confidences are combined as if the sources were independent, and the
        sources become "a+b".
        """
        key = (parent, token)
        node = self._nodes.get(key)
        if node is not None:
            if self.sources[node] != source:
                self.sources[node] += f"+{source}"
                self.confidences[node] = 1.0 - (1.0 - self.confidences[node]) * (1.0 - confidence)
            return node
        node = len(self.token_ids)
        if node >= self.budget:
            return None
        self._nodes[key] = node
        self._append(parent, token, confidence, source)
        return node

    def _append(self, parent: int, token: int, confidence: float, source: str = "") -> None:
        self.token_ids.append(token)
        self.parents.append(parent)
        self.confidences.append(confidence)
        self.sources.append(source)

    def add_lookahead(self, parent: int, token: int, source: str = "") -> int:
        """Add a lookahead token below `parent`, a node or another one. They follow all nodes, beyond the budget, and are not merged."""
        self._append(parent, token, 0.0, source)
        self.num_lookahead += 1
        return len(self.token_ids) - 1

    def add_chain(self, token_ids: Sequence[int], confidences: Sequence[float], source: str = "") -> None:
        """Add a path from the root; the part that it shares with earlier paths is merged, and what finds no room is left out."""
        parent = -1
        for token, confidence in zip(token_ids, confidences, strict=True):
            node = self.add(parent, token, confidence, source)
            if node is None:
                break
            parent = node

    def add_drafts(self, drafts: Sequence[Draft], sources: Sequence[str]) -> None:
        """Add several drafts, earlier ones first, each with its source; the lookahead tokens of all follow at the end."""
        places: list[dict[int, int]] = []  # node of a draft -> node here
        for draft, source in zip(drafts, sources, strict=True):
            num_nodes, place = len(draft) - draft.num_lookahead, {-1: -1}
            confidences = draft.confidences or [UNKNOWN_CONFIDENCE] * num_nodes
            for node, token, above, confidence in zip(range(num_nodes), draft.token_ids, draft.parents, confidences, strict=False):
                if above in place and (added := self.add(place[above], token, confidence, source)) is not None:
                    place[node] = added
            places.append(place)
        for draft, source, place in zip(drafts, sources, places, strict=True):
            for node in range(len(draft) - draft.num_lookahead, len(draft)):
                if draft.parents[node] in place:
                    place[node] = self.add_lookahead(place[draft.parents[node]], draft.token_ids[node], source)

    def build(self) -> Draft:
        """The tree; `sources` is None if no node has a source. The lists are handed over, not copied."""
        sources = self.sources if any(self.sources) else None
        return Draft(self.token_ids, self.parents, self.num_lookahead, self.confidences, sources)


def grow_best_first(builder: TreeBuilder, successors: Successors, threshold: float = 0.0, min_expanded: float = 0.0) -> TreeBuilder:
    """Fill a tree without lookahead tokens with the likeliest nodes, wherever they hang, and return it.

    `successors(path)` gives the next tokens after a path as (token, confidence) or (token, confidence, source), best first if there is a
    `threshold`. Nodes whose path is less likely than `threshold` are left out, and new nodes whose path is less likely than `min_expanded`
    get no children. Of equally likely nodes the one found first comes first.
    """
    budget, token_ids, nodes, append = builder.budget, builder.token_ids, builder._nodes, builder._append
    if len(token_ids) >= budget:
        return builder
    heap: list[tuple[float, int, int, Successor, Path]] = []  # (-confidence of the path, number, parent, successor, path of the parent)
    number = 0

    def expand(node: int, path: Path, path_confidence: float) -> None:
        nonlocal number
        for successor in successors(path):
            confidence = path_confidence * successor[1]
            if confidence < threshold:
                break
            heappush(heap, (-confidence, number, node, successor, path))
            number += 1

    for node, path_confidence in enumerate([1.0, *builder.path_confidences()], start=-1):
        expand(node, builder.path(node), path_confidence)
    while heap:
        negative, _, parent, successor, path = heappop(heap)
        if (parent, successor[0]) in nodes:
            continue
        nodes[parent, successor[0]] = len(token_ids)
        append(parent, *successor)
        if len(token_ids) >= budget:
            break
        if -negative >= min_expanded:
            expand(len(token_ids) - 1, (*path, successor[0]), -negative)
    return builder


def by_level(levels: Sequence[Sequence[tuple[int, float]]]) -> Successors:
    """Successors that depend on the depth alone, so that every path through the levels is possible. Each level is given best first."""
    return lambda path: levels[len(path)] if len(path) < len(levels) else ()
