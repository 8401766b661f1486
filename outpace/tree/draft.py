"""Draft trees, and the operations on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outpace.errors import OutpaceError

UNKNOWN_CONFIDENCE = 0.5  # of a draft token whose drafter states none


@dataclass(frozen=True)
class Draft:
    """Draft tokens for the next positions, as a tree. Parents come before children; parent -1 is the last committed token.

    The last `num_lookahead` nodes are never accepted: their outputs only reach `Drafter.observe`.
    `confidences` [N]: the drafter's probability that each node is right, given that its parent is; None if it states none.
    `sources` [N]: the drafters that proposed each node, as "a" or "a+b"; None: the drafter that the request runs with.
    """

    token_ids: Sequence[int] = ()
    parents: Sequence[int] = ()
    num_lookahead: int = 0
    confidences: Sequence[float] | None = None
    sources: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def chain(cls, token_ids: Sequence[int]) -> Draft:
        """A draft without branches."""
        return cls(token_ids, range(-1, len(token_ids) - 1))

    @property
    def is_chain(self) -> bool:
        return all(p == i - 1 for i, p in enumerate(self.parents))

    def children(self) -> dict[int, dict[int, int]]:
        """parent node -> {token: node}, without the lookahead tokens; of equal siblings the first counts."""
        table: dict[int, dict[int, int]] = {}
        for node in range(len(self.token_ids) - self.num_lookahead):
            table.setdefault(self.parents[node], {}).setdefault(self.token_ids[node], node)
        return table


EMPTY_DRAFT = Draft()


@dataclass(frozen=True)
class Verdict:
    """What a verifier decided on a draft: the accepted nodes from the root down, and the model's own next token
    (the recovered token after a rejection, the bonus token after full acceptance). If the row of that token failed, `error` says why and
    `next_token` is None: the tokens of the path are right all the same."""

    draft: Draft
    path: list[int]
    next_token: int | None
    error: Exception | None = None


def depths(parents: Sequence[int]) -> list[int]:
    """Depth of each node, 0 for those with parent -1."""
    out: list[int] = []
    for parent in parents:
        out.append(0 if parent < 0 else out[parent] + 1)
    return out


def check(draft: Draft, vocab_size: int, budget: int, num_vectors: int = 0) -> None:
    """Raise OutpaceError unless the draft is a well-formed tree of at most `budget` nodes, lookahead tokens not counted.

    Only lookahead tokens may have the ids of vectors, `num_vectors` ids behind the vocabulary.
    """
    n = len(draft)
    if n != len(draft.parents):
        raise OutpaceError(f"draft has {n} tokens but {len(draft.parents)} parents")
    if not 0 <= draft.num_lookahead <= n or n - draft.num_lookahead > budget:
        raise OutpaceError(f"draft has {n} nodes, {draft.num_lookahead} of them lookahead tokens, for a budget of {budget}")
    if not all(-1 <= parent < node for node, parent in enumerate(draft.parents)):
        raise OutpaceError("draft lists a child before its parent")
    proposed, lookahead = draft.token_ids[: n - draft.num_lookahead], draft.token_ids[n - draft.num_lookahead :]
    if n and not (
        min(draft.token_ids) >= 0 and max(proposed, default=0) < vocab_size and max(lookahead, default=0) < vocab_size + num_vectors
    ):
        raise OutpaceError(f"draft has a token outside the vocabulary of {vocab_size}")


def path_products(parents: Sequence[int], values: Sequence[float]) -> list[float]:
    """For each node the product of the values of its path, from the root's child (parent -1) on; parents come before their children."""
    found: list[float] = []
    for parent, value in zip(parents, values, strict=True):
        found.append(found[parent] * value if parent >= 0 else value)
    return found


def select(draft: Draft, nodes: Sequence[int], num_lookahead: int = 0) -> Draft:
    """The draft of these nodes, in this order, parents before children; the last `num_lookahead` are lookahead tokens."""
    place = {-1: -1} | {node: i for i, node in enumerate(nodes)}
    return Draft(
        [draft.token_ids[node] for node in nodes],
        [place[draft.parents[node]] for node in nodes],
        num_lookahead,
        None if draft.confidences is None else [draft.confidences[node] for node in nodes],
        None if draft.sources is None else [draft.sources[node] for node in nodes],
    )


def without_last(draft: Draft, most: int) -> Draft:
    """The draft without the tokens behind the first `most`, lookahead tokens before others."""
    num_dropped = len(draft) - most
    return draft if num_dropped <= 0 else select(draft, range(most), max(0, draft.num_lookahead - num_dropped))


def shallow(draft: Draft, depth: int) -> Draft:
    """The draft without nodes deeper than `depth` and their descendants; lookahead tokens behind other nodes stay."""
    num_nodes = len(draft) - draft.num_lookahead
    if num_nodes <= depth:
        return draft
    kept: set[int] = {-1}
    for node, level in enumerate(depths(draft.parents)):
        if draft.parents[node] in kept and (level < depth or node >= num_nodes):
            kept.add(node)
    nodes = sorted(kept)[1:]
    return draft if len(nodes) == len(draft) else select(draft, nodes, sum(node >= num_nodes for node in nodes))


def first_chain(draft: Draft) -> Draft:
    """The path of first children from the root, without lookahead tokens: what a target without trees can run."""
    nodes: list[int] = []
    for node in range(len(draft) - draft.num_lookahead):
        if draft.parents[node] == (nodes[-1] if nodes else -1):
            nodes.append(node)
    if not nodes:
        return EMPTY_DRAFT
    return select(draft, nodes)


def chain_first(draft: Draft) -> Draft:
    """The same tree with the path of first children at the front, where each token stands right behind its parent."""
    front = {-1}
    last = -1
    for node in range(len(draft) - draft.num_lookahead):
        if draft.parents[node] == last:
            last = node
            front.add(node)
    order = sorted(range(len(draft)), key=lambda node: (node not in front, node))
    return select(draft, order, draft.num_lookahead)


def graft(stem: Sequence[int], draft: Draft) -> Draft:
    """The draft behind a chain of tokens."""
    if not stem:
        return draft
    top = len(stem)
    parents = [*range(-1, top - 1), *(parent + top if parent >= 0 else top - 1 for parent in draft.parents)]
    confidences = None if draft.confidences is None else [1.0] * top + list(draft.confidences)
    sources = None if draft.sources is None else [""] * top + list(draft.sources)
    return Draft([*stem, *draft.token_ids], parents, draft.num_lookahead, confidences, sources)


def locate(draft: Draft, part: Draft, root: int = -1) -> list[int | None]:
    """The places of the nodes of `part` in `draft`, which `graft` (behind node `root`), `merge` and `chain_first` made of it and others.

    None for nodes that were dropped. A node is found by the tokens of its path, so its outputs are those that were asked for.
    """
    places: dict[tuple[int, int, bool], list[int]] = {}
    for node in reversed(range(len(draft))):
        places.setdefault((draft.parents[node], draft.token_ids[node], node >= len(draft) - draft.num_lookahead), []).append(node)
    found: list[int | None] = []
    for node, parent in enumerate(part.parents):
        at = root if parent < 0 else found[parent]
        is_lookahead = node >= len(part) - part.num_lookahead
        here = [] if at is None else places.get((at, part.token_ids[node], is_lookahead), [])
        found.append(
            (here.pop() if is_lookahead else here[-1]) if here else None
        )  # equal lookahead tokens are not merged, equal draft tokens are
    return found
