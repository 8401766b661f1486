"""What drafting gains against how much is drafted: from the drafts of real steps, with only their surest nodes kept."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from outpace.request import StepOutput
from outpace.tree.draft import UNKNOWN_CONFIDENCE

BINS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # edges of claimed confidence
PRIOR = 4.0  # weight of the claim itself, in trials
MIN_TOKENS = 2  # of a sequence in a forward pass, padding included
Node = tuple[float, bool]  # confidence that the whole path is right, and whether it was


@dataclass(frozen=True)
class DraftCurve:
    """Per request and step, for rising effort: `gained` tokens beyond the model's own, `tokens` of the forward pass, `padding` among them.
    The first point is plain decoding."""

    gained: tuple[float, ...] = (0.0,)
    tokens: tuple[float, ...] = (float(MIN_TOKENS),)
    padding: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.gained)

    @classmethod
    def of(cls, steps: Sequence[Sequence[Node]], num_fixed: float, tokens_per_step: float) -> DraftCurve:
        """The curve of steps whose nodes are given; all nodes together gave `tokens_per_step`. `num_fixed` tokens of each step run again,
        whatever is drafted."""
        found = sum(is_right for nodes in steps for _, is_right in nodes)
        if not found or not steps:
            return cls()
        unit = max(0.0, tokens_per_step - 1.0) / found
        limits = sorted({round(confidence, 2) for nodes in steps for confidence, _ in nodes}, reverse=True)
        points = [(0.0, float(MIN_TOKENS), 1.0)]
        for limit in limits:
            kept = [[node for node in nodes if node[0] >= limit - 0.005] for nodes in steps]
            gained = unit * sum(is_right for nodes in kept for _, is_right in nodes)
            sizes = [max(MIN_TOKENS, 1 + len(nodes)) for nodes in kept]
            idle = sum(not nodes for nodes in kept) / len(kept)
            points.append((gained, sum(sizes) / len(sizes) + num_fixed, idle))
        return cls(*(tuple(column) for column in zip(*points, strict=True)))


def nodes_of(steps: Sequence[StepOutput]) -> tuple[list[list[Node]], float]:
    """(the draft nodes of each step with calibrated confidences, tokens per step that were verified once more)."""
    claims = [_claims(step) for step in steps]
    counts: dict[tuple[str, int], tuple[float, float]] = {}
    for nodes in claims:
        for source, claim, is_right, parent_is_right in nodes:
            if parent_is_right:
                right, trials = counts.get((source, bisect(BINS, claim)), (0.0, 0.0))
                counts[source, bisect(BINS, claim)] = right + is_right, trials + 1
    found = []
    for step, nodes in zip(steps, claims, strict=True):
        paths: list[Node] = []
        for parent, (source, claim, is_right, _) in zip(_parents(step), nodes, strict=True):
            right, trials = counts.get((source, bisect(BINS, claim)), (0.0, 0.0))
            own = (right + PRIOR * claim) / (trials + PRIOR)
            paths.append((own * (paths[parent][0] if parent >= 0 else 1.0), is_right))
        found.append([node for node, entry in zip(paths, nodes, strict=True) if entry[0]])
    num_fixed = sum(not source for nodes in claims for source, *_ in nodes)
    return found, num_fixed / len(steps) if steps else 0.0


def _parents(step: StepOutput) -> Sequence[int]:
    return [] if step.verdict is None else step.verdict.draft.parents[: len(step.verdict.draft) - step.verdict.draft.num_lookahead]


def _claims(step: StepOutput) -> list[tuple[str, float, bool, bool]]:
    """(source, claimed confidence given the parent, is it right, is its parent) of each node; the source of unconfirmed tokens is empty."""
    if step.verdict is None:
        return []
    draft, path = step.verdict.draft, {-1, *step.verdict.path}
    sources = draft.sources or [step.request.strategy.name] * len(draft)
    confidences = draft.confidences or [UNKNOWN_CONFIDENCE] * len(draft)
    return [(sources[node], float(confidences[node]), node in path, parent in path) for node, parent in enumerate(_parents(step))]
