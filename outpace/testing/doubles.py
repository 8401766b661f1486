"""Stand-ins with known behaviour: drafters that are right or wrong on purpose, a verifier that cheats, a target with rounding."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import Drafter, DrafterContext
from outpace.request import Request
from outpace.sampling.noise import uniform
from outpace.targets.base import TargetOutput
from outpace.targets.toy import ToyTarget
from outpace.testing.harness import Prompt
from outpace.tree.draft import Draft, Verdict
from outpace.tree.segment import TreeBatch
from outpace.verifiers.base import Verifier

_DRAFT_NOISE = 1 << 40  # SampledDrafter's positions, apart from those of every text


class OracleDrafter(Drafter):
    """Knows the plain `answers` (prompt -> output) and lies with probability `lie` at each position: acceptance ends at every depth.

    `width` 1 drafts a chain; more hides each truth (or lie) among wrong siblings and goes on below it, as a tree.
    """

    def __init__(self, context: DrafterContext, answers: Mapping[tuple[int, ...], Prompt], lie: float = 0.0, width: int = 1, seed: int = 0):
        self.answers, self.lie, self.seed, self.vocab_size = answers, lie, seed, context.vocab_size
        self.width = max(1, min(width, context.vocab_size - 1))

    def propose(self, request: Request, budget: int) -> Draft:
        answer = self.answers[tuple(request.token_ids[: request.num_prompt_tokens])]
        token_ids: list[int] = []
        parents: list[int] = []
        parent, position = -1, len(request.context) - request.num_prompt_tokens
        while len(token_ids) < budget:
            siblings, at = self._siblings(answer[position] if position < len(answer) else 0, position)
            siblings = siblings[: budget - len(token_ids)]
            parents += [parent] * len(siblings)
            token_ids += siblings
            parent, position = len(token_ids) - len(siblings) + at, position + 1
        return Draft(token_ids, parents)

    def _siblings(self, truth: int, position: int) -> tuple[list[int], int]:
        """`width` different tokens, and the place of the one to go on from: the truth, unless this is a lie."""
        start = int(uniform(self.seed, position, 1) * (self.vocab_size - 1))
        wrong = [(truth + 1 + (start + i) % (self.vocab_size - 1)) % self.vocab_size for i in range(self.width)]
        at = int(uniform(self.seed, position, 2) * self.width)
        if uniform(self.seed, position, 0) >= self.lie:
            wrong[at] = truth
        return wrong, at


class SampledDrafter(Drafter):
    """Draws from a known wrong distribution, softmax of a random table by the last token, with noise of its own.

    `width` 1 drafts a chain; more gives every node that many children, drawn without replacement, breadth first.
    """

    def __init__(self, context: DrafterContext, width: int = 1, seed: int = 0, sharpness: float = 2.0):
        self.width = max(1, min(width, context.vocab_size))
        table = np.exp(np.random.default_rng(seed).normal(0, sharpness, (context.vocab_size, context.vocab_size)))
        self.table = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)

    def propose(self, request: Request, budget: int) -> Draft:
        token_ids: list[int] = []
        parents: list[int] = []
        context, open_nodes = request.context, deque([-1])
        while len(token_ids) < budget:
            parent = open_nodes.popleft()
            weights = self.table[context[-1] if parent < 0 else token_ids[parent]]
            place = _DRAFT_NOISE + (len(context) << 10) + len(token_ids)
            order = np.argsort(request.sampler.arrival_times(place, range(len(weights))) / weights)
            for token in order[: min(self.width, budget - len(token_ids))].tolist():
                open_nodes.append(len(token_ids))
                token_ids.append(token)
                parents.append(parent)
        return Draft(token_ids, parents)


class AcceptEverythingVerifier(Verifier):
    """The negative control: accepts the first child at every node and claims to be lossless. Every check must catch it."""

    lossless = True
    same_text = False

    def verify(self, request: Request, draft: Draft, logits: Array) -> Verdict:
        children, path = draft.children(), [-1]
        while path[-1] in children:
            path.append(next(iter(children[path[-1]].values())))
        tokens = [draft.token_ids[node] for node in path[1:]]
        return Verdict(draft, path[1:], request.sampler.draw(logits[path[-1] + 1], tokens, len(request.token_ids) + len(tokens)))


class InexactTarget(ToyTarget):
    """A toy model without `exact_trees`: rows that do not stand right behind their ancestors are wrong at every `period`-th place."""

    def __init__(self, period: int = 3, **options: Any):
        super().__init__(**options)
        self.period = period
        self.capabilities = replace(self.capabilities, exact_trees=False)

    def forward(self, batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        claimed, self.capabilities = self.capabilities, replace(self.capabilities, exact_trees=True)
        output = super().forward(batch, num_tokens)
        self.capabilities = claimed
        places = [(s.slot.num_cached + i, int(m.sum()) != i + 1) for s in batch if s.wants_output for i, m in enumerate(s.mask)]
        for row, (place, is_displaced) in enumerate(places):
            if is_displaced and place % self.period == 0:
                output.logits[row] = np.roll(output.logits[row], 1)
        return output
