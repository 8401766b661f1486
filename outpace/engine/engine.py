"""The loop: schedule, draft, forward, verify, commit, observe. It knows no drafter, verifier or target by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from outpace.config import EngineConfig
from outpace.drafters.base import PromptObserver, StepObserver, reset
from outpace.engine.commit import Committed, commit, commit_prompt_logprobs, sources_of
from outpace.engine.drafter_guard import DrafterGuard
from outpace.engine.metrics import Metrics
from outpace.engine.scheduler import Scheduler
from outpace.engine.step_draft import Drafting, DraftLimits, StepDraft, StepPlan
from outpace.engine.step_record import StepRecord, StepWatch
from outpace.errors import BadInputError
from outpace.request import Request, StepOutput
from outpace.targets.base import TargetModel, TargetOutput
from outpace.tree.draft import Draft, Verdict
from outpace.tree.segment import Segment
from outpace.tree.unconfirmed import NONE_UNCONFIRMED, Unconfirmed

logger = logging.getLogger("outpace")
Prompts = Sequence[tuple[Request, Segment]]  # the parts of prompts that a forward pass runs


@dataclass
class _Judged:
    """One request's step after verification: its outputs, the verdict, and the part of it that may be committed."""

    draft: StepDraft
    output: TargetOutput
    verdict: Verdict | None = None
    certain: Verdict | None = None
    unconfirmed: Unconfirmed = NONE_UNCONFIRMED  # of this step
    before: Unconfirmed = NONE_UNCONFIRMED  # of the step before, which led this draft
    num_tokens: int = 0  # of the request, before the commit
    error: Exception | None = None


class Engine:
    """Runs any number of requests together, one forward pass per step. Not thread-safe: one thread drives it.

    `watchers` are called with every step; one that raises is removed.
    """

    def __init__(self, target: TargetModel, config: EngineConfig | None = None):
        self.watchers: list[Callable[[StepRecord], None]] = []
        self.target, self.config, self.metrics = target, config or EngineConfig(), Metrics()
        self.guard = DrafterGuard(self.config.on_drafter_error, self.metrics)
        self.drafting = Drafting(DraftLimits(target.capabilities, self.config.max_draft_tokens), self.guard)
        self.scheduler = Scheduler(target, self.config, self._num_reusable_prefix)
        if self.max_len < 2:
            least = self.config.max_draft_tokens + 2
            raise BadInputError(
                f"the K/V cache holds {target.max_cached_tokens} tokens, and a request with its drafts needs at least {least}"
            )

    @property
    def max_len(self) -> int:
        """Longest prompt and answer together, in tokens: the model's context, the configured limit or what the K/V cache holds."""
        limit = self.target.capabilities.max_len
        return min(limit, self.config.max_model_len or limit, self.target.max_cached_tokens - self.config.max_draft_tokens)

    @property
    def has_unfinished(self) -> bool:
        return bool(self.scheduler.waiting or self.scheduler.running)

    def add(self, request: Request) -> None:
        """Queue a request. Raises BadInputError when it can never run."""
        self.check(request.token_ids, request.sampling_params.max_tokens)
        self.scheduler.waiting.append(request)

    def check(self, prompt: Sequence[int], max_tokens: int) -> None:
        """Raises BadInputError when such a request can never run. Any thread may call this."""
        if not prompt:
            raise BadInputError("the prompt is empty")
        vocab_size = self.target.capabilities.vocab_size
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise BadInputError(f"the prompt has a token outside the vocabulary of {vocab_size}")
        if len(prompt) + max_tokens > self.max_len:
            raise BadInputError(f"{len(prompt)} prompt tokens and {max_tokens} new ones do not fit into {self.max_len}")

    def abort(self, request: Request) -> None:
        """Stop a request at once; its slot is free when this returns."""
        if request.finish_reason is None:
            self._finish(request, "abort")

    def preempt(self, request: Request) -> None:
        """Take a running request's place in the K/V cache away; it waits again, and goes on with the same text when there is room."""
        self.scheduler.preempt(request)
        self._count_preemption(request)

    def step(self) -> list[StepOutput]:
        """One forward pass for all running requests. Returns what each decoding request got."""
        watch = StepWatch()
        decoding = self._schedule(watch.started_at)
        with watch.timing("draft"):
            plan = self.drafting.plan(decoding, self.scheduler.num_prefill_tokens)
        for draft in plan.drafts:
            if not self.scheduler.reserve(draft.request, len(draft.request.token_ids) + len(draft.draft)):
                draft.drop()
        prompts = list(self.scheduler.prefill(sum(draft.num_tokens for draft in plan.drafts)))
        if not decoding and not prompts:
            return []
        num_drafted, num_prefill = sum(draft.num_tokens for draft in plan.drafts), sum(len(segment) for _, segment in prompts)
        with watch.timing("forward"):
            output = self._forward(plan, prompts)
        self._commit_prompts(prompts, output, num_drafted)
        with watch.timing("verify"):
            judged = [self._verify(draft, part) for draft, part in _split(plan.drafts, output)]
        results = [self._commit(part) for part in judged]
        with watch.timing("draft"):
            self._observe(judged)
        self.metrics.num_steps += 1
        record = watch.record(num_drafted + num_prefill, num_prefill, results)
        self.metrics.step_seconds += record.ended_at - watch.started_at
        self._tell(record)
        return results

    @contextmanager
    def watched_by(self, watcher: Callable[[StepRecord], None]) -> Iterator[None]:
        """Tell `watcher` of every step of this block."""
        self.watchers.append(watcher)
        try:
            yield
        finally:
            if watcher in self.watchers:
                self.watchers.remove(watcher)

    def _tell(self, record: StepRecord) -> None:
        for watcher in list(self.watchers):
            try:
                watcher(record)
            except Exception:
                logger.warning("a watcher of the engine's steps failed and is told no more", exc_info=True)
                self.watchers.remove(watcher)

    # ---- schedule

    def _schedule(self, now: float) -> list[Request]:
        """Make room for what runs and admit what fits; returns the requests that decode in this step."""
        for request in self.scheduler.make_room():
            self._count_preemption(request)
        for request in self.scheduler.admit():
            assert request.slot is not None
            if not request.stats.num_preemptions:
                request.stats.prefill_started_at = request.stats.decode_started_at = now
                request.stats.num_cached_prompt_tokens = request.slot.num_cached
            if self.guard.is_working(request):
                self.guard.call([request], None, request.strategy.drafter.begin, request)
        return self.scheduler.decoding()

    def _count_preemption(self, request: Request) -> None:
        """A request has lost its place: its drafter forgets it, and is told of its text when it goes on."""
        self.metrics.num_preemptions += 1
        request.stats.num_preemptions += 1
        self.guard.call([request], None, request.strategy.drafter.end, request)

    def _num_reusable_prefix(self, request: Request) -> int:
        drafter, whole = request.strategy.drafter, len(request.token_ids)
        if request.lacks_prompt_logprobs:
            return 0  # the logits of every prompt token are needed
        if not isinstance(drafter, PromptObserver) or not self.guard.is_working(request):
            return whole
        return self.guard.call([request], whole, drafter.num_reusable_prefix, request)

    # ---- forward

    def _forward(self, plan: StepPlan, prompts: Prompts) -> TargetOutput:
        batch = [*(draft.segment(self.target.capabilities.draws) for draft in plan.drafts), *(segment for _, segment in prompts)]
        started = time.perf_counter()
        output = self.target.forward(batch, plan.num_tokens)
        ended = time.perf_counter()
        for controller in plan.controllers:
            controller.record_forward_time(1e3 * (ended - started))
        for request, _ in prompts:
            if not request.num_output_tokens:
                request.stats.decode_started_at = ended
        self.metrics.forward_seconds += ended - started
        return output

    def _commit_prompts(self, prompts: Prompts, output: TargetOutput, num_drafted: int) -> None:
        """Keep the K/V of prompt chunks, note the log-probabilities of their tokens, and show their hidden states to the drafters that want
        them. `num_drafted`: rows of the outputs that belong to drafts."""
        row, output_row = 0, num_drafted
        for request, segment in prompts:
            start = segment.slot.num_cached
            self.target.accept(segment.slot, segment.token_ids, range(len(segment)))
            self.metrics.num_prompt_tokens += len(segment)
            hidden = None
            if segment.wants_output:
                rows, output_row = slice(output_row, output_row + len(segment)), output_row + len(segment)
                commit_prompt_logprobs(request, start, output.logits[rows])
                hidden = None if output.hidden is None else output.hidden[rows]
            elif segment.wants_hidden and output.prompt_hidden is not None:
                hidden, row = output.prompt_hidden[row : row + len(segment)], row + len(segment)
            drafter = request.strategy.drafter
            if hidden is not None and isinstance(drafter, PromptObserver) and drafter.wants_prompt and self.guard.is_working(request):
                self.guard.call([request], None, drafter.observe_prompt, request, start, hidden)

    # ---- verify

    def _verify(self, draft: StepDraft, output: TargetOutput) -> _Judged:
        """The verdict on one request's draft, split into what may be committed and what has to be verified again."""
        request = draft.request
        judged = _Judged(draft, output, before=request.unconfirmed, num_tokens=len(request.token_ids))
        try:
            verdict = judged.verdict = judged.certain = _verdict(request, draft.draft, output)
        except Exception as error:
            judged.error = error
            return judged
        if self.target.capabilities.confirms_branches and request.strategy.verifier.same_text:
            judged.certain, judged.unconfirmed = Unconfirmed.split(verdict, sources_of(request, verdict))
        judged.error = judged.certain.error
        return judged

    # ---- commit

    def _commit(self, judged: _Judged) -> StepOutput:
        """Append the verified tokens up to the first end; keep the K/V of all but the last. An error ends this request only."""
        request, draft = judged.draft.request, judged.draft
        committed = Committed()
        if judged.certain is not None:
            committed = commit(request, judged.certain, judged.output.logits)
            self.target.accept(request.slot, committed.cached_token_ids, committed.rows)  # type: ignore[arg-type]
        error = judged.error if committed.finish_reason is None and committed.error is None else committed.error
        sources = [] if judged.verdict is None else sources_of(request, judged.verdict)[: len(committed.token_ids)]
        request.unconfirmed = judged.unconfirmed.first(request.num_tokens_left - 1)
        self._count(request, draft, len(committed.token_ids))
        request.sources.extend(sources)
        reason = "error" if error is not None else committed.finish_reason
        if error is not None:
            logger.warning("request %s failed: %r", request.id, error)
            request.error = error
        if reason is not None:
            self._finish(request, reason)
        verdict = judged.verdict if error is None else None
        return StepOutput(request, committed.token_ids, sources, reason, verdict, draft.num_drafted)

    def _count(self, request: Request, draft: StepDraft, num_tokens: int) -> None:
        """One step of a request: `num_tokens` were delivered, of which all but one were accepted draft tokens."""
        num_drafted, num_accepted, stats = draft.num_drafted, max(0, num_tokens - 1), request.stats
        stats.num_steps += 1
        stats.num_drafts += num_drafted > 0
        stats.num_draft_tokens += num_drafted
        stats.num_accepted_tokens += num_accepted
        self.metrics.add_verdict(num_drafted, num_accepted, num_tokens)

    def _finish(self, request: Request, reason: str) -> None:
        request.finish_reason = reason
        request.stats.finished_at = time.perf_counter()
        was_running = request.slot is not None
        self.scheduler.remove(request)
        if was_running:
            self.guard.call([request], None, request.strategy.drafter.end, request)
        self.guard.forget(request)

    # ---- observe

    def _observe(self, judged: Sequence[_Judged]) -> None:
        """Show drafters and controllers what came of their drafts, request by request, then end the step for each drafter once."""
        for part in judged:
            request = part.draft.request
            if request.finish_reason is None and self.guard.is_working(request):
                self.guard.call([request], None, _show, part)
        for strategy in dict.fromkeys(part.draft.request.strategy for part in judged):
            drafter = strategy.drafter
            if isinstance(drafter, StepObserver):
                users = [part.draft.request for part in judged if part.draft.request.strategy is strategy]
                self.guard.call([user for user in users if user.finish_reason is None], None, drafter.end_step)


def _verdict(request: Request, draft: Draft, output: TargetOutput) -> Verdict:
    verifier = request.strategy.verifier
    if output.draws is None:
        return verifier.verify(request, draft, output.logits)
    return verifier.verify_drawn(request, draft, output.logits, output.draws)


def _show(judged: _Judged) -> None:
    """Tell the drafter and the controller which tokens came after those that the request had before the step."""
    request, verdict = judged.draft.request, judged.verdict
    drafter = request.strategy.drafter
    known = [*request.token_ids[judged.num_tokens :], *request.unconfirmed.token_ids]
    assert verdict is not None
    if judged.before.held(known):
        drafter.observe(request, verdict, judged.output)
        request.strategy.controller.observe(request, judged.draft.proposal, known[len(judged.before) :])
    else:
        reset(drafter, request, verdict, judged.output)


def _split(drafts: Sequence[StepDraft], output: TargetOutput) -> list[tuple[StepDraft, TargetOutput]]:
    """Each request's rows of the outputs."""
    parts, start = [], 0
    for draft in drafts:
        end = start + draft.num_tokens
        hidden = None if output.hidden is None else output.hidden[start:end]
        token_ids = [draft.request.token_ids[-1], *draft.draft.token_ids]
        draws = None if output.draws is None else output.draws[start:end]
        parts.append((draft, TargetOutput(output.logits[start:end], hidden, token_ids, draws=draws)))
        start = end
    return parts
