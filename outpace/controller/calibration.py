"""Calibrated confidences: counts of accepted draft tokens turn what a drafter claims into what has been observed."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

from outpace.tree.draft import UNKNOWN_CONFIDENCE, Draft, path_products

BINS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # edges of the bins of claimed confidence
DEPTHS = (1, 2, 4, 8)  # first depth of each group
PRIOR = 6.0  # weight of the claim itself, in trials
MEMORY = 600.0  # number of trials after which the counts are halved


class Calibration:
    """Beta counts by (drafter, bin of claimed confidence, group of depths), shared by all requests of a controller."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int, int], list[float]] = {}  # -> [accepted, trials]

    def confidence(self, source: str, claim: float, depth: int) -> float:
        """The probability that a node is right, given that its parent is; depth 1 is the next token."""
        accepted, trials = self.counts.get(_key(source, claim, depth), (0.0, 0.0))
        return (accepted + PRIOR * claim) / (trials + PRIOR)

    def learn(self, source: str, claim: float, depth: int, is_right: bool) -> None:
        """Record that a node whose parent was right turned out right or wrong."""
        entry = self.counts.setdefault(_key(source, claim, depth), [0.0, 0.0])
        if entry[1] >= MEMORY:
            entry[:] = entry[0] / 2, entry[1] / 2
        entry[0] += is_right
        entry[1] += 1.0

    def paths(self, draft: Draft, name: str) -> list[float]:
        """For each node the probability that it and all its ancestors are right; 0 for lookahead tokens. `name` is the drafter of nodes
        without a source."""
        confidences: list[float] = []
        depths: list[int] = []
        parents = draft.parents[: len(draft) - draft.num_lookahead]
        for node, parent in enumerate(parents):
            depths.append(1 if parent < 0 else depths[parent] + 1)
            confidences.append(self.confidence(draft.sources[node] if draft.sources else name, claim_of(draft, node), depths[node]))
        return path_products(parents, confidences) + [0.0] * draft.num_lookahead

    def observe(self, draft: Draft, name: str, known: Sequence[int]) -> None:
        """Learn from a whole proposal, whether it was verified or not; `known` are the tokens that followed."""
        children: dict[int, list[int]] = {}
        for node in range(len(draft) - draft.num_lookahead):
            children.setdefault(draft.parents[node], []).append(node)
        at = -1
        for depth, token in enumerate(known, start=1):
            following = -2
            for node in children.get(at, ()):
                is_right = draft.token_ids[node] == token
                self.learn(draft.sources[node] if draft.sources else name, claim_of(draft, node), depth, is_right)
                following = node if is_right else following
            if following < 0:
                return
            at = following


def claim_of(draft: Draft, node: int) -> float:
    """The confidence that the drafter gives a node."""
    return UNKNOWN_CONFIDENCE if draft.confidences is None else draft.confidences[node]


def _key(source: str, claim: float, depth: int) -> tuple[str, int, int]:
    return source, bisect(BINS, claim), bisect(DEPTHS, depth)
