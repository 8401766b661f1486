"""The proposer without batches: every request is drafted for alone, every successor is merged by loops. It must draft the same."""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from outpace.drafters.recycling import NEW, SuccessorTable
from outpace.tree.chain import SURE
from outpace.vllm import Proposer


class LoopedTable(SuccessorTable):
    """Averages entry by entry."""

    def update(self, keys, tokens, confidences):
        old = {key: self.get(key) for key in keys.tolist()}
        for key, new_tokens, new_confidences in zip(keys.tolist(), tokens.tolist(), confidences, strict=True):
            found = dict(zip(new_tokens, new_confidences * np.float32(NEW if old[key][0] else 1), strict=True))
            for token, confidence in zip(*old[key], strict=True):
                found[token] = found.get(token, np.float32(0)) + np.float32(1 - NEW) * np.float32(confidence)
            best = sorted(found.items(), key=itemgetter(1), reverse=True)[: tokens.shape[1]]
            [slot] = self._slots(np.array([key]))
            self.keys[slot] = key
            self.entries[slot] = np.array(best, np.float32).T


def chain_of(walkers, limit, threshold):
    """The likeliest chain of one text."""
    chain, path = [], 1.0
    while len(chain) < limit:
        found, best = {}, (0, 0.0)
        for walker in walkers:
            left = 1.0 - sum(found.values())
            for token, confidence in walker.successors().items():
                found[token] = found[token] + left * confidence if token in found else left * confidence
            best = max(found.items(), key=itemgetter(1), default=best)
            if best[1] >= SURE:
                break
        path *= best[1]
        if path < threshold or best[1] <= 0:
            break
        chain.append(best[0])
        for walker in walkers:
            walker.step(best[0])
    return chain


class OneByOne(Proposer):
    """For the drafter suffix+recycling."""

    def __init__(self, config):
        super().__init__(config)
        suffix, recycling = self.drafter.parts
        recycling.start.__class__ = LoopedTable

        def propose_chains(requests, budgets, threshold):
            suffix.prepare(requests)
            walkers = ([suffix.walker(request), recycling.walker(request)] for request in requests)
            return [chain_of(pair, budget, threshold) for pair, budget in zip(walkers, budgets, strict=True)]

        self.drafter.propose_chains = propose_chains

    def _learn(self, rows):
        found = self.seen.take(sum(1 if text is None else 1 + len(text.draft) for text in rows))
        if found is None:
            return
        places, row = [], 0
        for text in rows:
            if text is None:
                row += 1
                continue
            tokens = [*text.request.token_ids[: text.num_before], *text.draft]
            num_accepted = text.length - text.num_before - 1
            for offset in range(1 + len(text.draft)):
                at = text.num_before - 1 + offset
                places.append((offset <= num_accepted, tokens[at - 1] if at else -1, tokens[at], row))
                row += 1
        places.sort(key=itemgetter(0))
        if places:
            _, before, tokens, order = np.array(places).T
            self.drafter.learn("", before, tokens, found[0][order], found[1][order])
