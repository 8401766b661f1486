"""Suffix decoding (2411.04975): every place where the end of the text has occurred before votes on what comes next.

The longest suffix that has occurred before (up to 8 tokens) gives the places; the tokens after them, counted, are a small
language model of this text. A tree is grown from it best first: each node's estimated chance of acceptance is its parent's
times its share of the places, so long certain copies become chains and uncertain spots become branches. Shorter suffixes
add what the longer ones did not see.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from outpace.core import Draft, Request
from outpace.drafters.base import Drafter, DrafterContext
from outpace.errors import BadInputError
from outpace.ngrams import NgramTables

NUM_PLACES = 32  # latest occurrences that vote
TRUST = (0.35, 0.6, 0.75, 0.85, 0.9, 0.92, 0.94, 0.95)  # chance that a suffix of 1, 2, … tokens predicts at all
STEP = 0.93  # what is left of that chance one token further


class SuffixDrafter(Drafter):
    """max_suffix: longest suffix looked up (1 to 8). threshold: nodes less likely than this are not worth their row."""

    num_draft_tokens = 10

    def __init__(self, context: DrafterContext, max_suffix: int = 8, threshold: float = 0.05):
        if not 1 <= max_suffix <= len(TRUST):
            raise BadInputError(f"suffix: max_suffix must be from 1 to {len(TRUST)}, not {max_suffix}")
        if not 0 < threshold < 1:
            raise BadInputError(f"suffix: threshold must be between 0 and 1, not {threshold:g}")
        self.max_suffix, self.threshold = max_suffix, threshold
        self.tables: dict[str, NgramTables] = {}

    def begin(self, request: Request) -> None:
        self.tables[request.id] = NgramTables(self.max_suffix)

    def propose(self, request: Request, budget: int) -> Draft:
        tables, text = self.tables[request.id], request.context
        tables.extend(text)
        candidates: list[tuple[float, int, int, int, list[int]]] = []  # (-chance, number, parent, token, places of the token)
        left, seen = 1.0, set[int]()
        for n in range(min(self.max_suffix, len(text)), 0, -1):
            places = tables.after(text, n, NUM_PLACES)
            if not places:
                continue
            for token, voters in _by_token(text, places).items():
                if token not in seen:
                    seen.add(token)
                    candidates.append((-left * TRUST[n - 1] * len(voters) / len(places), len(candidates), -1, token, voters))
            left *= 1.0 - TRUST[n - 1]
        return self._grow(text, candidates, budget)

    def _grow(self, text: Sequence[int], candidates: list[tuple[float, int, int, int, list[int]]], budget: int) -> Draft:
        """Take the likeliest candidate, add its children, repeat."""
        heapq.heapify(candidates)
        number = len(candidates)
        token_ids: list[int] = []
        parents: list[int] = []
        while candidates and len(token_ids) < budget and -candidates[0][0] >= self.threshold:
            chance, _, parent, token, voters = heapq.heappop(candidates)
            token_ids.append(token)
            parents.append(parent)
            following = [place + 1 for place in voters if place + 1 < len(text)]
            if not following:  # the copy has reached the end of the text: go on from its start, as loops do
                following = [len(text) - 1] if text[-1] == token else []
            for child, places in _by_token(text, following).items():
                number += 1
                heapq.heappush(candidates, (chance * STEP * len(places) / len(following), number, len(token_ids) - 1, child, places))
        return Draft(token_ids, parents)

    def end(self, request: Request) -> None:
        self.tables.pop(request.id, None)


def _by_token(text: Sequence[int], places: Sequence[int]) -> dict[int, list[int]]:
    """places grouped by the token that stands there."""
    groups: dict[int, list[int]] = defaultdict(list)
    for place in places:
        groups[text[place]].append(place)
    return groups
