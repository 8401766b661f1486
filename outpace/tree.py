"""Token trees as arrays: depths, ancestor masks, and the batch of trees that one forward pass runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from outpace.core import EMPTY_DRAFT, Array, Draft
from outpace.errors import OutpaceError


@dataclass(eq=False)
class Slot:
    """One sequence's place in a target's K/V cache: `token_ids` are the tokens whose K/V is stored, in order."""

    index: int
    capacity: int  # rows it may hold, drafts included
    token_ids: list[int]
    blocks: list[int]

    @property
    def num_cached(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Segment:
    """The rows of one sequence in a pass. `parents[i] < i`; -1 hangs off the cached prefix; None means a chain.

    `wants_output` is False for prefill, whose logits nobody reads; `wants_hidden`: its hidden states are read all the same.
    """

    slot: Slot
    token_ids: Sequence[int]
    parents: Sequence[int] | None = None
    wants_output: bool = True
    wants_hidden: bool = False

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def position_ids(self) -> list[int]:
        """Absolute positions [n]: the depth in the tree counts, not the row."""
        start = self.slot.num_cached
        if self.parents is None:
            return list(range(start, start + len(self)))
        return [start + depth for depth in depths(self.parents)]

    @property
    def mask(self) -> Array:
        """[n, n] uint8, 1 where the row may see the column."""
        return causal_mask(len(self)) if self.parents is None else ancestor_mask(self.parents)


TreeBatch = Sequence[Segment]  # what one forward pass runs; outputs come in this order


UNKNOWN_CHANCE = 0.5  # of a guess whose drafter gives no chance


def depths(parents: Sequence[int]) -> list[int]:
    """Depth of each node, 0 for those with parent -1."""
    out: list[int] = []
    for parent in parents:
        out.append(0 if parent < 0 else out[parent] + 1)
    return out


@lru_cache(maxsize=128)
def causal_mask(n: int) -> Array:
    """[n, n] uint8 lower triangle; shared, never written."""
    mask = np.tril(np.ones((n, n), np.uint8))
    mask.flags.writeable = False
    return mask


def ancestor_mask(parents: Sequence[int]) -> Array:
    """[n, n] uint8: row i sees itself and its ancestors."""
    n = len(parents)
    mask = np.eye(n, dtype=np.uint8)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


def decode_segment(slot: Slot, root_token: int, draft: Draft) -> Segment:
    """The last committed token as row 0, then the draft's nodes: draft node i is row i + 1."""
    if draft.is_chain:
        return Segment(slot, [root_token, *draft.token_ids])
    return Segment(slot, [root_token, *draft.token_ids], [-1, *(parent + 1 for parent in draft.parents)])


def check(draft: Draft, vocab_size: int, budget: int, num_vectors: int = 0) -> None:
    """Raise OutpaceError unless the draft is a well-formed tree of at most `budget` nodes (probes not counted).

    Only probes may have the ids of vectors, `num_vectors` of them behind the vocabulary.
    """
    n = len(draft)
    if n != len(draft.parents):
        raise OutpaceError(f"draft has {n} tokens but {len(draft.parents)} parents")
    if not 0 <= draft.num_probes <= n or n - draft.num_probes > budget:
        raise OutpaceError(f"draft has {n} nodes, {draft.num_probes} of them probes, for a budget of {budget}")
    if not all(-1 <= parent < node for node, parent in enumerate(draft.parents)):
        raise OutpaceError("draft lists a child before its parent")
    guesses, probes = draft.token_ids[: n - draft.num_probes], draft.token_ids[n - draft.num_probes :]
    if n and not (min(draft.token_ids) >= 0 and max(guesses, default=0) < vocab_size and max(probes, default=0) < vocab_size + num_vectors):
        raise OutpaceError(f"draft has a token outside the vocabulary of {vocab_size}")
    if draft.probs is not None and draft.probs.shape != (n, vocab_size):
        raise OutpaceError(f"draft.probs has shape {draft.probs.shape}, not {(n, vocab_size)}")


def select(draft: Draft, nodes: Sequence[int], num_probes: int = 0) -> Draft:
    """The draft of these nodes, in this order; a node's parent must come before it. The last `num_probes` of them are probes."""
    place = {-1: -1} | {node: i for i, node in enumerate(nodes)}
    return Draft(
        [draft.token_ids[node] for node in nodes],
        [place[draft.parents[node]] for node in nodes],
        None if draft.probs is None else draft.probs[list(nodes)],
        num_probes,
        None if draft.chances is None else [draft.chances[node] for node in nodes],
        None if draft.sources is None else [draft.sources[node] for node in nodes],
    )


def shallow(draft: Draft, depth: int) -> Draft:
    """The draft without guesses deeper than `depth` tokens and what hangs off them; probes off the others stay, however deep."""
    num_nodes = len(draft) - draft.num_probes
    if num_nodes <= depth:
        return draft
    kept: set[int] = {-1}
    for node, level in enumerate(depths(draft.parents)):
        if draft.parents[node] in kept and (level < depth or node >= num_nodes):
            kept.add(node)
    nodes = sorted(kept)[1:]
    return draft if len(nodes) == len(draft) else select(draft, nodes, sum(node >= num_nodes for node in nodes))


def first_chain(draft: Draft) -> Draft:
    """The path of first children from the root, without probes: what is left for a target that cannot run trees."""
    nodes: list[int] = []
    for node in range(len(draft) - draft.num_probes):
        if draft.parents[node] == (nodes[-1] if nodes else -1):
            nodes.append(node)
    if not nodes:
        return EMPTY_DRAFT
    return select(draft, nodes)


def chain_first(draft: Draft) -> Draft:
    """The same tree with the path of first children at the front, where its rows stand in a chain."""
    front = {-1}
    last = -1
    for node in range(len(draft) - draft.num_probes):
        if draft.parents[node] == last:
            last = node
            front.add(node)
    order = sorted(range(len(draft)), key=lambda node: (node not in front, node))
    return select(draft, order, draft.num_probes)


def graft(stem: Sequence[int], draft: Draft) -> Draft:
    """The draft moved to the end of a chain of certain guesses; without `probs`, which the stem has none of."""
    if not stem:
        return draft
    top = len(stem)
    parents = [*range(-1, top - 1), *(parent + top if parent >= 0 else top - 1 for parent in draft.parents)]
    chances = None if draft.chances is None else [1.0] * top + list(draft.chances)
    sources = None if draft.sources is None else [""] * top + list(draft.sources)
    return Draft([*stem, *draft.token_ids], parents, None, draft.num_probes, chances, sources)


def locate(draft: Draft, part: Draft, root: int = -1) -> list[int | None]:
    """Where the nodes of `part` stand in `draft`, which `graft` (behind node `root`), `merge` and `chain_first` made of it and others.

    None for nodes that found no room. A node is found by the tokens of its path, so what is found has the outputs that were asked for.
    """
    places: dict[tuple[int, int, bool], list[int]] = {}
    for node in reversed(range(len(draft))):
        places.setdefault((draft.parents[node], draft.token_ids[node], node >= len(draft) - draft.num_probes), []).append(node)
    found: list[int | None] = []
    for node, parent in enumerate(part.parents):
        at = root if parent < 0 else found[parent]
        is_probe = node >= len(part) - part.num_probes
        here = [] if at is None else places.get((at, part.token_ids[node], is_probe), [])
        found.append((here.pop() if is_probe else here[-1]) if here else None)  # equal probes are not merged, equal guesses are
    return found


def merge(drafts: Sequence[Draft], budget: int, names: Sequence[str] = ()) -> Draft:
    """One tree out of several, earlier ones first, equal paths merged, at most `budget` nodes; probes of all come last.

    With `names`, one a draft, `sources` says who guessed each node ("a+b" for both) and `chances` adds the claims up as if independent.
    """
    token_ids: list[int] = []
    parents: list[int] = []
    sources: list[str] = []
    chances: list[float] = []
    nodes: dict[tuple[int, int], int] = {}
    places: list[dict[int, int]] = []  # node of a draft -> node of the merged tree
    for index, draft in enumerate(drafts):
        place = {-1: -1}
        name = names[index] if names else ""
        for node in range(len(draft) - draft.num_probes):
            key = (place.get(draft.parents[node], -2), draft.token_ids[node])
            chance = draft.chances[node] if draft.chances else UNKNOWN_CHANCE
            if key in nodes:
                at = nodes[key]
                if place.setdefault(node, at) == at and sources[at] != name:
                    sources[at] += f"+{name}"
                    chances[at] = 1.0 - (1.0 - chances[at]) * (1.0 - chance)
            elif key[0] != -2 and len(token_ids) < budget:
                nodes[key] = place[node] = len(token_ids)
                token_ids.append(key[1])
                parents.append(key[0])
                sources.append(name)
                chances.append(chance)
        places.append(place)
    num_nodes = len(token_ids)
    for index, (draft, place) in enumerate(zip(drafts, places, strict=True)):
        for node in range(len(draft) - draft.num_probes, len(draft)):
            if draft.parents[node] in place:
                place[node] = len(token_ids)
                token_ids.append(draft.token_ids[node])
                parents.append(place[draft.parents[node]])
                sources.append(names[index] if names else "")
                chances.append(0.0)
    return Draft(token_ids, parents, None, len(token_ids) - num_nodes, chances if names else None, sources if names else None)


def merge_chains(chains: Sequence[Sequence[int]], budget: int) -> Draft:
    """One tree out of several chains, earlier ones first, shared prefixes merged, at most `budget` nodes."""
    token_ids: list[int] = []
    parents: list[int] = []
    nodes: dict[tuple[int, int], int] = {}
    for chain in chains:
        parent = -1
        for token in chain:
            if (parent, token) not in nodes:
                if len(token_ids) == budget:
                    break
                nodes[parent, token] = len(token_ids)
                token_ids.append(token)
                parents.append(parent)
            parent = nodes[parent, token]
    return Draft(token_ids, parents)
