"""Which requests run in the next forward pass: decoding ones always, prompts in chunks with the tokens that are left."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

from outpace.config import EngineConfig
from outpace.drafters.base import wants_prompt
from outpace.request import Request
from outpace.targets.base import OutOfSlots, TargetModel
from outpace.tree.segment import Segment


class Scheduler:
    """A request reserves room for its whole length when it is admitted, so a running request is never preempted."""

    def __init__(self, target: TargetModel, config: EngineConfig, num_reusable_prefix: Callable[[Request], int]):
        """`num_reusable_prefix`: number of leading tokens of a request whose K/V may be reused."""
        self.target, self.config, self.num_reusable_prefix = target, config, num_reusable_prefix
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def num_cache_tokens(self, request: Request) -> int:
        """Cache tokens to reserve: the longest text it may reach and one draft."""
        return request.num_prompt_tokens + request.sampling_params.max_tokens + self.config.max_draft_tokens

    def admit(self) -> list[Request]:
        """Move waiting requests into the running set while there is room; returns the new ones. First come, first served, among
        the memory scopes (tenants) with the fewest running requests."""
        admitted = []
        while self.waiting and len(self.running) < self.config.max_num_seqs:
            running = Counter(request.cache_salt for request in self.running)
            request = min(self.waiting, key=lambda waiting: running[waiting.cache_salt])
            prompt = request.token_ids[: self.num_reusable_prefix(request) + 1] if self.config.enable_prefix_caching else []
            try:
                request.slot = self.target.allocate(self.num_cache_tokens(request), prompt, request.cache_salt)
            except OutOfSlots:
                if not self.running:
                    raise
                break
            self.waiting.remove(request)
            self.running.append(request)
            admitted.append(request)
        return admitted

    def decoding(self) -> list[Request]:
        """Requests whose prompt is in the cache up to its last token."""
        return [request for request in self.running if not request.is_prefilling]

    @property
    def num_prefill_tokens(self) -> int:
        """Upper bound of the prompt tokens that the next forward pass will run beside the decoding requests."""
        waiting = sum(len(r.token_ids) - 1 - r.num_cached for r in self.running if r.is_prefilling)
        return min(waiting, self.config.max_num_batched_tokens)

    def prefill(self, num_tokens_taken: int) -> Iterator[tuple[Request, Segment]]:
        """Chunks of prompts, oldest first, that fill the forward pass up to max_num_batched_tokens."""
        left = max(self.config.min_prefill_chunk, self.config.max_num_batched_tokens - num_tokens_taken)
        for request in self.running:
            if left > 0 and request.is_prefilling and request.slot is not None:
                start = request.num_cached
                chunk = request.token_ids[start : min(len(request.token_ids) - 1, start + left)]
                left -= len(chunk)
                wants_output = request.prompt_logprobs is not None
                wants_hidden = not wants_output and wants_prompt(request.strategy.drafter)
                yield request, Segment(request.slot, chunk, wants_output=wants_output, wants_hidden=wants_hidden)

    def remove(self, request: Request) -> None:
        """Remove a request, waiting or running, and free its slot."""
        if request.slot is None:
            if request in self.waiting:
                self.waiting.remove(request)
            return
        self.running.remove(request)
        self.target.free(request.slot)
        request.slot = None
