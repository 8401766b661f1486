"""Typical acceptance (Medusa, 2401.10774): accepts draft tokens that are likely enough. LOSSY: the distribution changes.

A node is accepted when p(x) > min(epsilon, delta * exp(-H(p))). The longest accepted path wins; of equally long ones, the likeliest.
"""

from __future__ import annotations

import math

import numpy as np

from outpace.arrays import Array
from outpace.request import Request
from outpace.tree.draft import Draft, Verdict
from outpace.verifiers.base import Verifier


class TypicalVerifier(Verifier):
    """At temperature 0 every distribution is one-hot, so it equals the exact verifier; above 0 it is not lossless."""

    lossless = False
    same_text = False

    def __init__(self, epsilon: float = 0.09, delta: float = 0.3):
        self.epsilon, self.delta = epsilon, delta

    def verify(self, request: Request, draft: Draft, logits: Array) -> Verdict:
        sampler, start = request.sampler, len(request.token_ids)
        children = draft.children()
        best: tuple[int, float, list[int]] = (0, 0.0, [])
        stack: list[tuple[int, list[int], float]] = [(-1, [], 0.0)]
        while stack:
            node, path, score = stack.pop()
            if (len(path), score) > best[:2]:
                best = (len(path), score, path)
            if node not in children:
                continue
            p = sampler.probabilities(logits[node + 1], [draft.token_ids[n] for n in path])
            entropy = float(-(p * np.log(p + 1e-5)).sum())
            threshold = min(self.epsilon, self.delta * math.exp(-entropy))
            for token, child in children[node].items():
                if p[token] > threshold:
                    stack.append((child, [*path, child], score + math.log(p[token])))
        path = best[2]
        tokens = [draft.token_ids[n] for n in path]
        row = logits[path[-1] + 1 if path else 0]
        return Verdict(draft, path, sampler.draw(row, tokens, start + len(path)))
