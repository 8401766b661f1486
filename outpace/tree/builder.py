"""One draft tree out of several drafts."""

from __future__ import annotations

from collections.abc import Sequence

from outpace.tree.draft import UNKNOWN_CONFIDENCE, Draft


def merge(drafts: Sequence[Draft], budget: int, names: Sequence[str] = ()) -> Draft:
    """One tree out of several, earlier ones first, equal paths merged, at most `budget` nodes; probes of all come last.

    With `names`, one a draft, `sources` says who guessed each node ("a+b" for both) and `confidences` adds the claims up as if independent.
    """
    token_ids: list[int] = []
    parents: list[int] = []
    sources: list[str] = []
    confidences: list[float] = []
    nodes: dict[tuple[int, int], int] = {}
    places: list[dict[int, int]] = []  # node of a draft -> node of the merged tree
    for index, draft in enumerate(drafts):
        place = {-1: -1}
        name = names[index] if names else ""
        for node in range(len(draft) - draft.num_lookahead):
            key = (place.get(draft.parents[node], -2), draft.token_ids[node])
            confidence = draft.confidences[node] if draft.confidences else UNKNOWN_CONFIDENCE
            if key in nodes:
                at = nodes[key]
                if place.setdefault(node, at) == at and sources[at] != name:
                    sources[at] += f"+{name}"
                    confidences[at] = 1.0 - (1.0 - confidences[at]) * (1.0 - confidence)
            elif key[0] != -2 and len(token_ids) < budget:
                nodes[key] = place[node] = len(token_ids)
                token_ids.append(key[1])
                parents.append(key[0])
                sources.append(name)
                confidences.append(confidence)
        places.append(place)
    num_nodes = len(token_ids)
    for index, (draft, place) in enumerate(zip(drafts, places, strict=True)):
        for node in range(len(draft) - draft.num_lookahead, len(draft)):
            if draft.parents[node] in place:
                place[node] = len(token_ids)
                token_ids.append(draft.token_ids[node])
                parents.append(place[draft.parents[node]])
                sources.append(names[index] if names else "")
                confidences.append(0.0)
    return Draft(token_ids, parents, None, len(token_ids) - num_nodes, confidences if names else None, sources if names else None)


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
