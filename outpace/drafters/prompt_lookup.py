"""Prompt lookup (Saxena 2023): drafts what followed the last tokens when they occurred before in the prompt or the answer.

Tables lead from n-grams to the positions right after them and grow by each new token in O(1). The longest n-gram that has occurred
before gives the main chain: the longer the match, the longer the chain. On targets that run trees, other continuations of this n-gram
and of shorter ones are added as short branches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from outpace.drafters.base import DrafterContext, SuccessorSource, tail, unseen
from outpace.drafters.ngram_index import NgramTables
from outpace.errors import BadInputError
from outpace.request import Request
from outpace.tree.builder import TreeBuilder
from outpace.tree.draft import Draft

NUM_PLACES = 16  # latest occurrences that are counted
NUM_SUCCESSORS = 8
START = (0.0, 0.35, 0.52, 0.78)  # measured: confidence that what followed the last 1, 2, 3 tokens before follows them again
COPY = 0.73  # measured: confidence of each further token of the copy
BRANCH_LENGTH = 2  # tokens of every continuation but the first


class PromptLookupDrafter(SuccessorSource):
    """max_ngram, min_ngram: n-gram lengths tried, longest first. choose=frequent|recent: which continuation comes first.

    branches: most continuations to draft; 1 drafts a chain, as always on targets without trees.
    """

    num_draft_tokens = 10

    def __init__(self, context: DrafterContext, max_ngram: int = 3, min_ngram: int = 1, choose: str = "frequent", branches: int = 3):
        if not 1 <= min_ngram <= max_ngram:
            raise BadInputError(f"prompt_lookup: need 1 <= min_ngram <= max_ngram, not {min_ngram} and {max_ngram}")
        if choose not in ("recent", "frequent"):
            raise BadInputError(f"prompt_lookup: choose must be recent or frequent, not {choose!r}")
        if branches < 1:
            raise BadInputError(f"prompt_lookup: branches must be at least 1, not {branches}")
        self.max_ngram, self.min_ngram, self.is_frequent = max_ngram, min_ngram, choose == "frequent"
        self.branches = branches if context.target.capabilities.tree else 1
        self.tables: dict[str, NgramTables] = {}

    def begin(self, request: Request) -> None:
        self.tables[request.id] = NgramTables(self.max_ngram)

    def propose(self, request: Request, budget: int) -> Draft:
        tables = self._tables(request)
        text, chains = tables.text, dict[int, list[int]]()  # first token -> chain
        starts: list[float] = []  # confidence of each chain's first token
        for n in range(min(self.max_ngram, len(text)), self.min_ngram - 1, -1):
            for token, place, share in self._ranked(text, tables.after(text[-n:], NUM_PLACES)):
                if len(chains) < self.branches and token not in chains:
                    chains[token] = continuation(text, place, BRANCH_LENGTH if chains else 2 + 2 * n)
                    starts.append(START[min(n, len(START) - 1)] * share)
            if len(chains) == self.branches:
                break
        builder = TreeBuilder(budget)
        for chain, start in zip(chains.values(), starts, strict=True):
            builder.add_chain(chain, [start, *[COPY] * (len(chain) - 1)])
        return builder.build()

    def successors(self, request: Request, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        tables = self._tables(request)
        end = tail(request, self.max_ngram, path)
        for n in range(len(end), self.min_ngram - 1, -1):
            if places := tables.after(end[-n:], NUM_PLACES):
                trust = START[min(n, len(START) - 1)]
                return [(token, trust * share) for token, _, share in self._ranked(tables.text, places)][:NUM_SUCCESSORS]
        return ()

    def _tables(self, request: Request) -> NgramTables:
        """The tables of `request.context`, brought up to date."""
        tables = self.tables[request.id]
        tables.extend(unseen(request, len(tables.text)))
        return tables

    def _ranked(self, text: list[int], places: Sequence[int]) -> list[tuple[int, int, float]]:
        """(next token, its latest place, its share) of the places (latest last), best first."""
        latest = {text[place]: place for place in places}
        counts = Counter(text[place] for place in places)
        best = sorted(latest.items(), key=lambda item: (counts[item[0]] if self.is_frequent else 0, item[1]), reverse=True)
        return [(token, place, counts[token] / len(places)) for token, place in best]

    def end(self, request: Request) -> None:
        self.tables.pop(request.id, None)


def continuation(text: list[int], place: int, length: int) -> list[int]:
    """`length` tokens from `place` on; at the end of the text the copy repeats from its own start, as in a loop."""
    copied = text[place : place + length]
    while len(copied) < length:
        copied += copied[: length - len(copied)]
    return copied
