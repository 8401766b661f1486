"""What one request drafts in one step: collected from the drafter, fitted to the limits, chosen by the controller."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from outpace.controller.base import Controller, Plan
from outpace.engine.drafter_guard import DrafterGuard
from outpace.request import Request
from outpace.targets.base import Capabilities
from outpace.tree.draft import EMPTY_DRAFT, Draft, chain_first, check, first_chain, shallow, without_last
from outpace.tree.segment import Segment, decode_segment

logger = logging.getLogger("outpace")
MIN_TOKENS = 2  # least tokens of a request in a forward pass: a lone one is padded


@dataclass
class StepDraft:
    """One request's part of a step. `proposal` is all that was drafted; `draft` is what runs: the unconfirmed tokens, then the nodes of the
    proposal that the controller chose."""

    request: Request
    proposal: Draft = EMPTY_DRAFT
    draft: Draft = EMPTY_DRAFT
    num_unconfirmed: int = 0  # tokens at the head of `draft`

    @property
    def num_tokens(self) -> int:
        """Tokens in the forward pass: the last committed one and the draft's."""
        return 1 + len(self.draft)

    @property
    def num_drafted(self) -> int:
        """Draft tokens that can be accepted, without the unconfirmed ones."""
        return len(self.draft) - self.draft.num_lookahead - self.num_unconfirmed

    def drop(self) -> None:
        """Run no more than the unconfirmed tokens."""
        self.draft = self.request.unconfirmed.graft(EMPTY_DRAFT)

    def segment(self, draws: bool = False) -> Segment:
        """The request's part of the forward pass; with `draws` the target may draw its tokens."""
        assert self.request.slot is not None
        drawing = self.request.sampler.drawing if draws and self.request.strategy.verifier.same_text else None
        return decode_segment(self.request.slot, self.request.token_ids[-1], self.draft, drawing)


@dataclass(frozen=True)
class StepPlan:
    """The drafts of a step, one per decoding request, and what the controllers want: the size to pad the forward pass to (0: no wish)."""

    drafts: list[StepDraft]
    num_tokens: int = 0
    controllers: list[Controller] = field(default_factory=list)


@dataclass(frozen=True)
class DraftLimits:
    """What a draft must keep to: the target's capabilities, and the tokens it may add to a request's part of a forward pass."""

    capabilities: Capabilities
    max_draft_tokens: int

    def budget(self, request: Request, wanted: int) -> int:
        """Nodes that may be proposed; 0 where nothing can be gained."""
        one_pass = self.capabilities.max_tokens - 1 if self.capabilities.max_tokens else wanted  # beside the last token of the text
        most = min(wanted, one_pass, self.max_draft_tokens - len(request.unconfirmed))
        return 0 if request.max_draft_depth <= 0 else max(0, most)

    def fit(self, request: Request, draft: Draft, budget: int) -> Draft:
        """The draft shaped by the request's processors and cut to size, depth and form: lookahead tokens that find no room beside the draft
        and the tokens that a grammar forces are left out. Raises OutpaceError for a malformed draft."""
        capabilities, limit = self.capabilities, self.max_draft_tokens - len(request.unconfirmed)
        check(draft, capabilities.vocab_size, budget, capabilities.num_vectors)
        draft = without_last(_shaped(request, draft, budget, limit), limit)
        draft = shallow(draft, request.max_draft_depth)
        return draft if capabilities.tree or (draft.is_chain and not draft.num_lookahead) else first_chain(draft)

    def arrange(self, request: Request, draft: Draft) -> Draft:
        """The draft behind the unconfirmed tokens, its first chain in front where only that chain is exact."""
        draft = request.unconfirmed.graft(draft)
        is_arranged = not self.capabilities.confirms_branches or not request.strategy.verifier.same_text or draft.is_chain
        return draft if is_arranged else chain_first(draft)


def _shaped(request: Request, draft: Draft, budget: int, limit: int) -> Draft:
    """The draft as the request's processors shape it. A processor that fails is not the drafter's fault: the step runs without a draft, and
    the error ends the request when the processor is applied to the logits."""
    try:
        return request.sampler.shape(draft, request, budget, limit)
    except Exception as error:
        logger.debug("request %s: a logits processor could not shape a draft: %r", request.id, error)
        return EMPTY_DRAFT


def _grouped(drafts: Sequence[StepDraft], key: Callable[[Request], object]) -> list[list[StepDraft]]:
    """Drafts whose requests share an object, in order."""
    groups: dict[int, list[StepDraft]] = {}
    for draft in drafts:
        groups.setdefault(id(key(draft.request)), []).append(draft)
    return list(groups.values())


class Drafting:
    """The draft phase of a step: one batch per drafter, one plan per controller."""

    def __init__(self, limits: DraftLimits, guard: DrafterGuard):
        self.limits, self.guard = limits, guard

    def plan(self, requests: Sequence[Request], num_prefill_tokens: int) -> StepPlan:
        """What to run behind each request's last token."""
        drafts = [StepDraft(request, num_unconfirmed=len(request.unconfirmed)) for request in requests]
        for group in _grouped(drafts, lambda request: request.strategy.drafter):
            self._propose(group, len(requests))
        sizes = {id(draft): max(MIN_TOKENS, 1 + len(draft.request.unconfirmed) + len(draft.proposal)) for draft in drafts}
        wishes, controllers = [], []
        for group in _grouped(drafts, lambda request: request.strategy.controller):
            controller = group[0].request.strategy.controller
            others = num_prefill_tokens + sum(sizes.values()) - sum(sizes[id(draft)] for draft in group)
            plan = self._choose(controller, group, others)
            for draft, chosen in zip(group, plan.drafts, strict=True):
                draft.draft = self.limits.arrange(draft.request, chosen)
            wishes.append(plan.num_tokens)
            controllers.append(controller)
        return StepPlan(drafts, min(wishes, default=0), controllers)

    def _propose(self, group: Sequence[StepDraft], num_running: int) -> None:
        """Ask one drafter for the drafts of all its requests."""
        started = time.perf_counter()
        strategy = group[0].request.strategy
        asked: list[StepDraft] = []
        budgets: list[int] = []
        for draft in group:
            if self.guard.is_working(draft.request):
                wanted = draft.request.strategy.controller.budget(draft.request, num_running)
                budget = self.limits.budget(draft.request, wanted)
                if budget > 0:
                    asked.append(draft)
                    budgets.append(budget)
        if not asked:
            return
        requests = [draft.request for draft in asked]
        proposals = self.guard.call_batch(requests, budgets, strategy.drafter.propose_batch)
        for draft, budget, proposal in zip(asked, budgets, proposals, strict=True):
            draft.proposal = self._fitted(draft.request, proposal, budget)
        seconds = time.perf_counter() - started
        for request in requests:
            request.stats.draft_seconds += seconds / len(requests)
        self.guard.metrics.draft_seconds += seconds

    def _fitted(self, request: Request, proposal: Draft, budget: int) -> Draft:
        return self.guard.call([request], EMPTY_DRAFT, self.limits.fit, request, proposal, budget)

    def _choose(self, controller: Controller, group: Sequence[StepDraft], num_other_tokens: int) -> Plan:
        requests, proposals = [draft.request for draft in group], [draft.proposal for draft in group]
        plain = Plan([EMPTY_DRAFT] * len(group))
        return self.guard.call(requests, plain, controller.plan, requests, proposals, num_other_tokens)
