"""How other engines draft, run by outpace's own: one chain of at most K tokens for each request and step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.drafters.base import Drafter, DrafterContext, StepObserver
from outpace.request import Request
from outpace.targets.base import TargetOutput
from outpace.tree.draft import Draft, Verdict


class ChainDrafter(StepObserver):
    """Another drafter, of which only the best chain is used, as outpace's proposer does in vLLM."""

    def __init__(self, inner: Drafter, threshold: float):
        self.inner, self.threshold, self.num_draft_tokens = inner, threshold, inner.num_draft_tokens

    def begin(self, request: Request) -> None:
        self.inner.begin(request)

    def propose(self, request: Request, budget: int) -> Draft:
        return self.propose_batch([request], [budget])[0]

    def propose_batch(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        return [Draft.chain(chain) for chain in self.inner.propose_chains(requests, budgets, self.threshold)]

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self.inner.observe(request, verdict, output)

    def end_step(self) -> None:
        if isinstance(self.inner, StepObserver):
            self.inner.end_step()

    def end(self, request: Request) -> None:
        self.inner.end(request)


class VLLMNgramDrafter(Drafter):
    """vLLM's `ngram`: the tokens behind the first place where the longest end of the text, of `least` to `most` tokens, has occurred."""

    num_draft_tokens = 7

    def __init__(self, context: DrafterContext, least: int = 2, most: int = 3):
        self.least, self.most = least, most

    def propose(self, request: Request, budget: int) -> Draft:
        text = request.context
        for length in range(min(self.most, len(text) - 1), self.least - 1, -1):
            end = text[-length:]
            place = next((i for i in range(len(text) - length) if text[i] == end[0] and text[i : i + length] == end), None)
            if place is not None:
                return Draft.chain(text[place + length : place + length + budget])
        return Draft()


class VLLMSuffixDrafter(Drafter):
    """vLLM's `suffix`: the package arctic-inference with vLLM's settings. Raises ImportError where it is not installed."""

    num_draft_tokens = 7
    max_depth = 24  # of its trees, and tokens of the text that it looks for

    def __init__(self, context: DrafterContext):
        from arctic_inference.suffix_decoding import SuffixDecodingCache

        self.cache = SuffixDecodingCache(max_tree_depth=self.max_depth, max_cached_requests=10000)
        self.num_read: dict[str, int] = {}  # request -> tokens of its text that the cache has

    def begin(self, request: Request) -> None:
        self.cache.start_request(request.id, np.array(request.context, np.int32))
        self.num_read[request.id] = len(request.context)

    def propose(self, request: Request, budget: int) -> Draft:
        text = request.context
        self.cache.add_active_response(request.id, text[self.num_read[request.id] :])
        self.num_read[request.id] = len(text)
        pattern = np.array(text[-self.max_depth :], np.int32)
        draft = self.cache.speculate(request.id, pattern, max_spec_tokens=budget, max_spec_factor=1.0, min_token_prob=0.1)
        return Draft.chain(list(draft.token_ids))

    def end(self, request: Request) -> None:
        self.cache.stop_request(request.id)
        del self.num_read[request.id]
