"""Rejection sampling: keeps the target's distribution exactly, but a seed gives another text than plain decoding.

Chains: Leviathan et al. 2211.17192, Chen et al. 2302.01318. Trees: siblings drawn without replacement, Sequoia 2402.12374.
A draft without `draft_probs` is deterministic: each child's distribution is one-hot. At temperature 0 it equals the exact verifier.
"""

from __future__ import annotations

import numpy as np

from outpace.arrays import Array
from outpace.request import Request
from outpace.sampling.sampler import inverse_cdf
from outpace.tree.draft import Draft, Verdict
from outpace.verifiers.base import Verifier

FINAL_DRAW = 1 << 20  # index of a separate noise stream; the accept tests use 1, 2, 3, …


class RejectionVerifier(Verifier):
    """Accepts more than `exact` of drafts that were sampled at high temperature."""

    lossless = True
    same_text = False

    def verify(self, request: Request, draft: Draft, logits: Array) -> Verdict:
        children = draft.children()
        sampler, node, position = request.sampler, -1, len(request.token_ids)
        path: list[int] = []
        tokens: list[int] = []
        while True:
            p = sampler.probabilities(logits[node + 1], tokens)
            chosen = None
            tried: list[int] = []
            for coin, (token, child) in enumerate(children.get(node, {}).items(), start=1):
                q = self._draft_distribution(draft, child, tried, len(p))
                if sampler.uniform(position, coin) * q[token] < p[token]:
                    chosen = child
                    break
                rest = np.maximum(p - q, 0.0)
                if rest.sum() > 0:  # 0 means q = p up to rounding: p stays as it is
                    p = rest / rest.sum()
                tried.append(token)
            if chosen is None:
                return Verdict(draft, path, inverse_cdf(p, sampler.uniform(position, FINAL_DRAW)))
            node, position = chosen, position + 1
            path.append(chosen)
            tokens.append(draft.token_ids[chosen])

    @staticmethod
    def _draft_distribution(draft: Draft, child: int, tried: list[int], vocab_size: int) -> Array:
        """The distribution q [V] that the child was drawn from, with its earlier siblings removed."""
        if draft.draft_probs is None:
            q = np.zeros(vocab_size)
            q[draft.token_ids[child]] = 1.0
            return q
        q = draft.draft_probs[child].astype(np.float64)
        q[tried] = 0.0
        return np.asarray(q / q.sum())
