"""Which requests run in the next forward pass: decoding ones always, prompts in chunks with the tokens that are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from outpace.config import EngineConfig
from outpace.drafters.base import wants_prompt
from outpace.engine.waiting import WaitingRequests
from outpace.request import Request
from outpace.targets.base import OutOfSlots, TargetModel
from outpace.tree.segment import Segment, Slot
from outpace.tree.unconfirmed import NONE_UNCONFIRMED

STEP = 32  # tokens of room that a request gets beyond those it needs now, if there are so many
LOOK_PAST = 8  # requests without room that are looked past in one step


class Scheduler:
    """A request gets room in the K/V cache as it grows. When there is none left, the request that was admitted last gives way: it waits
    again, and later goes on where it was."""

    def __init__(self, target: TargetModel, config: EngineConfig, num_reusable_prefix: Callable[[Request], int]):
        """`num_reusable_prefix`: number of leading tokens of a request whose K/V may be reused."""
        self.target, self.config, self.num_reusable_prefix = target, config, num_reusable_prefix
        self.waiting = WaitingRequests()
        self.running: list[Request] = []  # in the order of their admission

    def make_room(self) -> list[Request]:
        """Reserve what every running request needs for a step without a draft, the first admitted first. Returns the requests that gave
        way. Raises OutOfSlots if there is no room for a single request."""
        preempted = []
        for request in list(self.running):
            while request.slot is not None and not self.reserve(request, len(request.token_ids) + len(request.unconfirmed)):
                if len(self.running) == 1:
                    raise OutOfSlots
                preempted.append(self.running[-1])
                self.preempt(self.running[-1])
        return preempted

    def reserve(self, request: Request, num_tokens: int) -> bool:
        """Whether a running request has room for a text of `num_tokens` tokens, drafts included; grows its slot if it can."""
        slot = request.slot
        assert slot is not None
        if num_tokens <= slot.capacity:
            return True
        for size in (num_tokens + STEP, num_tokens):
            try:
                self.target.extend(slot, size)
                return True
            except OutOfSlots:
                continue
        return False

    def admit(self) -> list[Request]:
        """Move waiting requests into the running set while there is room; returns the new ones. Raises OutOfSlots if nothing runs and
        nothing fits."""
        admitted: list[Request] = []
        num_running = Counter(request.cache_salt for request in self.running)
        num_without_room = 0
        for request in self.waiting.in_turn(num_running):
            if len(self.running) >= self.config.max_num_seqs or num_without_room > LOOK_PAST:
                break
            request.slot = self._new_slot(request)
            if request.slot is None:
                num_without_room += 1
                if not self.waiting.did_not_fit(request):
                    break
                continue
            self.waiting.count_admission()
            num_running[request.cache_salt] += 1
            self.running.append(request)
            admitted.append(request)
        for request in admitted:
            self.waiting.remove(request)
        if num_without_room and not self.running:
            raise OutOfSlots
        return admitted

    def _new_slot(self, request: Request) -> Slot | None:
        """A slot for a request's text and its next tokens; None if there is no room."""
        prompt = request.token_ids[: self.num_reusable_prefix(request) + 1] if self.config.enable_prefix_caching else []
        for room in (STEP,) if self.running else (STEP, 0):
            try:
                return self.target.allocate(len(request.token_ids) + room, prompt, request.cache_salt)
            except OutOfSlots:
                continue
        return None

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
                wants_output = request.lacks_prompt_logprobs
                wants_hidden = not wants_output and wants_prompt(request.strategy.drafter)
                yield request, Segment(request.slot, chunk, wants_output=wants_output, wants_hidden=wants_hidden)

    def remove(self, request: Request) -> None:
        """Remove a request, waiting or running, and free its slot."""
        if request.slot is None:
            self.waiting.remove(request)
        else:
            self._release(request)

    def preempt(self, request: Request) -> None:
        """Let a running request wait again. It keeps its text, which is run like a prompt when there is room again."""
        self._release(request)
        request.unconfirmed = NONE_UNCONFIRMED
        self.waiting.put_back(request)

    def _release(self, request: Request) -> None:
        assert request.slot is not None
        self.running.remove(request)
        self.target.free(request.slot)
        request.slot = None
