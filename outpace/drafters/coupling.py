"""Coupled drafting (Daliri et al. 2408.07978): a drafter draws with the noise that the target's next draw will use.

The verifier's noise is known before the forward pass. A candidate of confidence q whose arrival time is early is more likely to be drawn
than q says, and a late one less. The rule and its constants are fitted to the tables and heads that know only a few candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from outpace.request import Request
from outpace.tree.builder import Path, Successor, Successors, TreeBuilder, grow_best_first

POWER = 0.82  # of a candidate's confidence
NOISE = 0.45  # weight of the noise at temperature 1
REST, REST_SLOPE = 1.3, 1.9  # score of all tokens that are no candidates, at temperature 1, and its change with the temperature
HOTTEST = 1.5  # the rule was fitted at 0.8 and 1.0
LESS = 0.4  # of a threshold: the noise spreads confidences, and else trees would have fewer nodes


def grow_coupled(
    builder: TreeBuilder, request: Request, successors: Successors, threshold: float, min_expanded: float = 0.0
) -> TreeBuilder:
    """`grow_best_first` with coupled successors."""
    found = coupled(request, successors)
    return grow_best_first(builder, found, threshold if found is successors else LESS * threshold, min_expanded)


def coupled(request: Request, successors: Successors) -> Successors:
    """The successors with confidences that take the request's noise into account, best first; as they are where there is no choice."""
    params = request.sampling_params
    if params.is_greedy or params.top_k == 1:
        return successors
    temperature = min(params.temperature, HOTTEST)
    noise, rest = NOISE * temperature, math.exp(REST + REST_SLOPE * (temperature - 1))
    start, arrival_times = len(request.token_ids) + len(request.unconfirmed), request.sampler.arrival_times

    def found(path: Path) -> Sequence[Successor]:
        candidates = [candidate for candidate in successors(path) if candidate[1] > 0]
        if not candidates:
            return candidates
        times = arrival_times(start + len(path), [candidate[0] for candidate in candidates])
        weights = [candidate[1] ** POWER * time**-noise for candidate, time in zip(candidates, times, strict=True)]
        left = max(0.0, 1.0 - sum([candidate[1] for candidate in candidates]))
        total = sum(weights) + rest * left**POWER
        raced = [(candidate[0], weight / total, *candidate[2:]) for candidate, weight in zip(candidates, weights, strict=True)]
        return sorted(raced, key=lambda candidate: -candidate[1])

    return found
