"""The loop: schedule -> draft -> forward -> verify -> commit -> observe. It knows no drafter, verifier or target by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from outpace.arrays import Array
from outpace.config import EngineConfig
from outpace.controller.base import Controller, Plan
from outpace.engine.metrics import Metrics
from outpace.engine.scheduler import Scheduler
from outpace.errors import BadInputError, OutpaceError
from outpace.request import Request, StepOutput
from outpace.sampling.sampler import logprobs_of
from outpace.targets.base import TargetModel, TargetOutput
from outpace.tree.draft import EMPTY_DRAFT, Draft, Verdict, chain_first, check, first_chain, graft, shallow
from outpace.tree.segment import Segment, decode_segment

logger = logging.getLogger("outpace")


class Engine:
    """Runs any number of requests together, one model pass a step. Not thread-safe: one thread drives it."""

    def __init__(self, target: TargetModel, config: EngineConfig | None = None):
        self.target, self.config = target, config or EngineConfig()
        self.scheduler = Scheduler(target, self.config, self._num_known)
        self.metrics = Metrics()
        self._no_drafter: set[str] = set()  # requests whose drafter failed: they go on plainly

    @property
    def max_len(self) -> int:
        """Longest prompt and answer together, in tokens: the model's context, the configured limit or what the K/V cache holds."""
        limit = self.target.capabilities.max_len
        return min(limit, self.config.max_model_len or limit, self.target.max_rows - self.config.max_draft_rows)

    @property
    def has_unfinished(self) -> bool:
        return bool(self.scheduler.waiting or self.scheduler.running)

    def add(self, request: Request) -> None:
        """Queue a request. Raises BadInputError when it can never run."""
        if not request.token_ids:
            raise BadInputError("the prompt is empty")
        vocab_size = self.target.capabilities.vocab_size
        if not 0 <= min(request.token_ids) <= max(request.token_ids) < vocab_size:
            raise BadInputError(f"the prompt has a token outside the vocabulary of {vocab_size}")
        if request.num_prompt_tokens + request.params.max_tokens > self.max_len:
            raise BadInputError(
                f"{request.num_prompt_tokens} prompt tokens and {request.params.max_tokens} new ones do not fit into {self.max_len}"
            )
        self.scheduler.waiting.append(request)

    def abort(self, request: Request) -> None:
        """Stop a request at once; its slot is free when this returns."""
        if request.finish_reason is None:
            self._finish(request, "abort")

    def step(self) -> list[StepOutput]:
        """One pass of the model for everybody who is running. Returns what each decoding request got."""
        started = time.perf_counter()
        for request in self.scheduler.admit():
            self._begin(request, started)
        decoding = self.scheduler.decoding()
        drafts, width, controllers = self._draft(decoding)
        batch = [decode_segment(r.slot, r.token_ids[-1], draft) for r, draft in zip(decoding, drafts, strict=True)]
        prefill = list(self.scheduler.prefill(sum(len(segment) for segment in batch)))
        batch += [segment for _, segment in prefill]
        if not batch:
            return []
        before = time.perf_counter()
        output = self.target.forward(batch, width)
        after = time.perf_counter()
        for controller in controllers:
            controller.passed(1e3 * (after - before))
        self._keep_prompts(prefill, output)
        for request, _ in prefill:
            request.stats.decode_started_at = after
        results, row = [], 0
        for request, draft in zip(decoding, drafts, strict=True):
            end = row + 1 + len(draft)
            hidden = None if output.hidden is None else output.hidden[row:end]
            results.append(
                self._advance(request, draft, TargetOutput(output.logits[row:end], hidden, [request.token_ids[-1], *draft.token_ids]))
            )
            row = end
        self._settle(decoding)
        self.metrics.num_steps += 1
        self.metrics.forward_seconds += after - before
        self.metrics.step_seconds += time.perf_counter() - started
        return results

    def _keep_prompts(self, prefill: Sequence[tuple[Request, Segment]], output: TargetOutput) -> None:
        """Keep the K/V of prompt chunks, and show their hidden states to the drafters that want them."""
        row = 0
        for request, segment in prefill:
            start = segment.slot.num_cached
            self.target.keep(segment.slot, segment.token_ids, range(len(segment)))
            self.metrics.num_prompt_tokens += len(segment)
            if segment.wants_hidden and output.prompt_hidden is not None:
                hidden, row = output.prompt_hidden[row : row + len(segment)], row + len(segment)
                self._prefilled(request, start, hidden)

    def _prefilled(self, request: Request, start: int, hidden: Array) -> None:
        if request.id not in self._no_drafter:
            try:
                request.speculation.drafter.prefilled(request, start, hidden)
            except Exception as error:
                self._drop_drafter(request, error)

    def _num_known(self, request: Request) -> int:
        known = len(request.token_ids)
        if request.id not in self._no_drafter:
            try:
                known = request.speculation.drafter.num_known(request)
            except Exception as error:
                self._drop_drafter(request, error)
        return known

    def _begin(self, request: Request, now: float) -> None:
        request.stats.prefill_started_at = request.stats.decode_started_at = now
        request.stats.num_cached_prompt_tokens = request.slot.num_cached
        try:
            request.speculation.drafter.begin(request)
        except Exception as error:
            self._drop_drafter(request, error)

    def _draft(self, requests: Sequence[Request]) -> tuple[list[Draft], int, list[Controller]]:
        """What to run behind each request's last token, pending tokens first; how wide to make the pass (0: as the target likes); and
        the controllers that chose."""
        for request in requests:
            request.proposal = self._propose(request, len(requests))
        chosen = {request.id: request.proposal for request in requests}
        own_rows = {request.id: max(2, 1 + len(request.pending) + len(request.proposal)) for request in requests}
        widths = []
        controllers = list(dict.fromkeys(request.speculation.controller for request in requests))
        for controller in controllers:
            mine = [request for request in requests if request.speculation.controller is controller]
            others = sum(own_rows.values()) - sum(own_rows[request.id] for request in mine)
            try:
                plan = controller.plan(mine, [request.proposal for request in mine], others + self.scheduler.num_prefill_rows)
            except Exception as error:
                logger.warning("the controller failed, %d requests decode plainly in this step: %r", len(mine), error)
                plan = Plan([EMPTY_DRAFT] * len(mine))
            chosen.update(zip([request.id for request in mine], plan.drafts, strict=True))
            widths.append(plan.width)
        return [self._arranged(request, chosen[request.id]) for request in requests], min(widths, default=0), controllers

    def _arranged(self, request: Request, draft: Draft) -> Draft:
        """The draft behind the pending tokens, its first chain in front where only that chain is exact."""
        draft = graft(request.pending, draft)
        is_arranged = self.target.capabilities.exact_trees or not request.speculation.verifier.same_text or draft.is_chain
        return draft if is_arranged else chain_first(draft)

    def _propose(self, request: Request, num_running: int) -> Draft:
        """The drafter's guesses of what follows the context; empty when there is nothing to gain."""
        num_pending = len(request.pending)
        depth, limit = request.num_tokens_left - 1 - num_pending, self.config.max_draft_rows - num_pending
        if min(depth, limit) <= 0 or request.id in self._no_drafter:
            return EMPTY_DRAFT
        started = time.perf_counter()
        try:
            budget = min(request.speculation.controller.budget(request, num_running), limit)
            draft: Draft = request.speculation.drafter.propose(request, budget) if budget > 0 else EMPTY_DRAFT
            check(draft, self.target.capabilities.vocab_size, budget, self.target.capabilities.num_vectors)
            draft = request.sampler.shape(draft, request, budget, limit)
            if len(draft) + num_pending > self.config.max_draft_rows:
                raise OutpaceError(f"draft and probes take {len(draft)} rows, more than {self.config.max_draft_rows - num_pending}")
        except Exception as error:
            self._drop_drafter(request, error)
            return EMPTY_DRAFT
        draft = shallow(draft, depth)
        if not self.target.capabilities.tree and not (draft.is_chain and draft.num_probes == 0):
            draft = first_chain(draft)
        seconds = time.perf_counter() - started
        request.stats.draft_seconds += seconds
        self.metrics.draft_seconds += seconds
        return draft

    def _drop_drafter(self, request: Request, error: Exception) -> None:
        """A drafter that fails costs speed, never the answer: log it and decode the rest of this request plainly."""
        logger.warning("drafter %s failed, request %s goes on without it: %r", request.speculation.name, request.id, error)
        self._no_drafter.add(request.id)

    def _advance(self, request: Request, draft: Draft, output: TargetOutput) -> StepOutput:
        """Verify one request's rows, commit the tokens and let the drafter see them. An error ends this request only."""
        num_drafted = len(draft) - draft.num_probes - len(request.pending)
        pending = list(request.pending)
        num_tokens = len(request.token_ids)
        try:
            verdict = request.speculation.verifier.verify(request, draft, output.logits)
            certain, uncertain = self._split(request, verdict)
            token_ids, finish_reason = self._commit(request, certain, output.logits)
        except Exception as error:
            logger.warning("request %s failed: %r", request.id, error)
            request.error = error
            self._undo(request, num_tokens)
            self._finish(request, "error")
            return StepOutput(request, [], [], "error")
        sources = self._sources(request, verdict)
        request.pending = uncertain[: max(0, request.num_tokens_left - 1)]
        request.pending_sources = sources[len(certain.path) + 1 :][: len(request.pending)]
        sources = sources[: len(token_ids)]
        num_accepted = min(len(certain.path), len(token_ids))  # tokens this step got beyond the one of plain decoding
        stats = request.stats
        stats.num_steps += 1
        stats.num_drafts += num_drafted > 0
        stats.num_draft_tokens += num_drafted
        stats.num_accepted_tokens += num_accepted
        self.metrics.add_verdict(num_drafted, num_accepted, len(token_ids))
        request.sources.extend(sources)
        if finish_reason is not None:
            self._finish(request, finish_reason)
        else:
            self._observe(request, num_tokens, pending, verdict, output)
        return StepOutput(request, token_ids, sources, finish_reason, verdict)

    @staticmethod
    def _sources(request: Request, verdict: Verdict) -> list[str]:
        """The drafter behind each token of the verdict's path, and "" for the drawn token at its end."""
        draft, held = verdict.draft, request.pending_sources
        given = draft.sources or [request.speculation.name] * len(draft)
        return [*(held[node] if node < len(held) else given[node] for node in verdict.path), ""]

    def _split(self, request: Request, verdict: Verdict) -> tuple[Verdict, list[int]]:
        """(what may be committed, tokens left pending: guesses that held and one drawn token).

        On targets without `exact_trees` a row has plain decoding's bits only if its ancestors stand right before it. What is drawn
        from other rows is checked again as the head of the next draft, which costs a row each and no pass.
        """
        if self.target.capabilities.exact_trees or not request.speculation.verifier.same_text:
            return verdict, []
        split = next((i for i, node in enumerate(verdict.path) if node != i), None)
        if split is None:
            return verdict, []
        tokens = [verdict.draft.token_ids[node] for node in verdict.path[split:]]
        return Verdict(verdict.draft, verdict.path[:split], tokens[0]), [*tokens[1:], verdict.next_token]

    def _observe(self, request: Request, num_tokens: int, pending: list[int], verdict: Verdict, output: TargetOutput) -> None:
        """Show drafter and controller what came after `num_tokens` tokens, and tell the drafter if a pending token did not hold."""
        if request.id in self._no_drafter:
            return
        drafter, known = request.speculation.drafter, [*request.token_ids[num_tokens:], *request.pending]
        try:
            if known[: len(pending)] != pending:
                drafter.restart(request, verdict, output)
            else:
                drafter.observe(request, verdict, output)
                request.speculation.controller.observe(request, request.proposal, known[len(pending) :])
        except Exception as error:
            self._drop_drafter(request, error)

    def _settle(self, requests: Sequence[Request]) -> None:
        """Let each drafter finish the step; one that fails may have forgotten what it saw, no request needs to know."""
        for speculation in dict.fromkeys(request.speculation for request in requests):
            try:
                speculation.drafter.settle()
            except Exception as error:
                logger.warning("drafter %s failed to learn from a step: %r", speculation.name, error)

    def _commit(self, request: Request, verdict: Verdict, logits: Array) -> tuple[list[int], str | None]:
        """Append the verified tokens up to the first end; keep the K/V of all but the last. Returns (tokens, finish reason)."""
        tokens = [*(verdict.draft.token_ids[node] for node in verdict.path), verdict.next_token]
        rows = [0, *(node + 1 for node in verdict.path)]  # row r predicted tokens[i]
        kept: list[int] = []
        finish_reason = None
        root = request.token_ids[-1]
        for token, row in zip(tokens, rows, strict=True):
            if request.logprobs is not None:
                request.logprobs.append(logprobs_of(logits[row], token, request.params.logprobs or 0))
            request.token_ids.append(token)
            kept.append(token)
            finish_reason = self._finish_reason(request, token)
            if finish_reason is not None:
                break
        request.sampler.commit(kept)
        self.target.keep(request.slot, [root, *kept[:-1]], rows[: len(kept)])
        return kept, finish_reason

    @staticmethod
    def _undo(request: Request, num_tokens: int) -> None:
        """Take back the tokens of a step that failed half-way: the output is what was delivered."""
        del request.token_ids[num_tokens:]
        if request.logprobs is not None:
            del request.logprobs[request.num_output_tokens :]

    @staticmethod
    def _finish_reason(request: Request, token: int) -> str | None:
        is_end = request.stop_check is not None and request.stop_check(token)
        if request.num_output_tokens >= request.params.min_tokens and (is_end or token in request.stop_token_ids):
            return "stop"
        return "length" if request.num_tokens_left <= 0 else None

    def _finish(self, request: Request, reason: str) -> None:
        request.finish_reason = reason
        request.stats.finished_at = time.perf_counter()
        was_running = request.slot is not None
        self.scheduler.remove(request)
        if was_running:
            try:
                request.speculation.drafter.end(request)
            except Exception as error:
                logger.warning("drafter %s failed at the end of request %s: %r", request.speculation.name, request.id, error)
        self._no_drafter.discard(request.id)
