"""The engine in a thread of its own. The event loop hands requests over and gets events back; neither waits for the other."""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from outpace.config import SpeculativeConfig
from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.outputs import Job, StreamPiece
from outpace.params import SamplingParams
from outpace.server.api_errors import ApiError, bad_input, internal_error
from outpace.server.prometheus import ServerMetrics
from outpace.server.settings import ServerSettings

logger = logging.getLogger("outpace")


@dataclass(frozen=True)
class GenerationJob:
    """One prompt and `count` answers to it, with the seeds `params.seed`, + 1, … `prediction`: tokens the client expects."""

    prompt_token_ids: list[int]
    params: SamplingParams
    speculative: SpeculativeConfig
    count: int = 1
    prediction: list[int] | None = None


@dataclass(frozen=True)
class Event:
    """What a step gave choice `index`, and how long the step took; the number `step` counts this choice's steps."""

    index: int
    step: int
    milliseconds: float
    piece: StreamPiece


class RequestHandle:
    """The event loop's end of a request: events come out of it. Close it in the end, whatever happened."""

    def __init__(self, worker: Worker, num_choices: int, cache_salt: str, seconds: float):
        self.worker, self.num_choices, self.cache_salt = worker, num_choices, cache_salt
        self.loop = asyncio.get_running_loop()
        self.arrived_at = time.perf_counter()
        self.deadline = self.arrived_at + seconds
        self.inbox: asyncio.Queue[Event | ApiError | None] = asyncio.Queue()

    async def events(self) -> AsyncIterator[Event]:
        """All events until every choice is done. Raises ApiError when the request fails."""
        num_done = 0
        while num_done < self.num_choices:
            event = await self.inbox.get()
            if isinstance(event, ApiError):
                raise event
            assert event is not None
            num_done += event.piece.output is not None
            yield event

    def close(self) -> None:
        """The client needs no more: free what is still running, within one step."""
        self.worker.release(self)


class ChoiceState:
    """One answer on its way, seen from the engine's thread. `siblings` start when its prompt is in the cache, and share it there."""

    def __init__(self, ticket: RequestHandle, index: int, work: GenerationJob, siblings: Sequence[ChoiceState] = ()):
        self.ticket, self.index, self.work, self.siblings = ticket, index, work, list(siblings)
        self.job: Job | None = None
        self.num_steps = 0
        self.last_at = 0.0


class Worker:
    """Drives one LLM. The methods without underscore belong to the event loop, the others to the engine's thread."""

    def __init__(self, llm: LLM, settings: ServerSettings, metrics: ServerMetrics):
        self.llm, self.settings, self.metrics = llm, settings, metrics
        self.is_draining = False
        self.is_dead = False  # the engine's thread has ended by an error: only a new process helps
        self.tickets: set[RequestHandle] = set()  # of the event loop
        self._choices: dict[RequestHandle, list[ChoiceState]] = {}  # running and waiting ones, of the engine's thread
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._outbox: list[tuple[RequestHandle, Event | ApiError | None]] = []
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._mean_seconds = 1.0  # of a request, lately

    async def submit(self, works: Sequence[GenerationJob], cache_salt: str) -> RequestHandle:
        """Hand a request over. Raises ApiError when it is refused: 400, 429 when the queue is full, 503 when the server ends."""
        ticket = RequestHandle(self, sum(work.count for work in works), cache_salt, self.settings.request_timeout)
        self.tickets.add(ticket)  # before the look at is_dead, so that a dying thread sees it
        try:
            self.check_health()
            if self._thread is None:
                self._start()
            self._commands.put(partial(self._accept, ticket, works))
            answer = await ticket.inbox.get()  # None: accepted
            if isinstance(answer, ApiError):
                raise answer
        except BaseException:
            ticket.close()
            raise
        return ticket

    def check_health(self) -> None:
        """Raises ApiError (503) when no more requests are taken."""
        if self.is_dead or self.is_draining:
            raise ApiError(503, "the engine has stopped" if self.is_dead else "the server is shutting down", code="unavailable")

    def release(self, ticket: RequestHandle) -> None:
        """Forget a ticket and free its slots."""
        if ticket in self.tickets:
            self.tickets.discard(ticket)
            self._commands.put(partial(self._drop, ticket))

    def fail_all(self, error: ApiError) -> None:
        """End every request with this error."""
        self._commands.put(partial(self._fail_all, error))

    def stop(self) -> None:
        """End the thread after its current step; requests still running end with 503."""
        self.is_draining = self._is_stopping = True
        if self._thread is not None:
            self.fail_all(ApiError(503, "the server is shutting down", code="unavailable"))
            self._thread.join()
            atexit.unregister(self.stop)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="outpace-engine", daemon=True)
        self._thread.start()
        atexit.register(self.stop)  # a thread inside native code must not outlive the interpreter

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            while True:
                self._obey()
                if self._is_stopping and not self._choices:
                    return
                self._expire()
                self._step()
                self._flush()
        except BaseException:
            logger.critical("the engine's thread ends", exc_info=True)
            self.is_dead = True
            self._outbox = [(ticket, internal_error()) for ticket in list(self.tickets)]
            self._flush()

    def _obey(self) -> None:
        """Carry out what the event loop asked for; sleep while there is nothing to do at all."""
        if not self.llm.engine.has_unfinished and not self._is_stopping:
            self._commands.get()()
        while not self._commands.empty():
            self._commands.get()()
        self._flush()

    def _accept(self, ticket: RequestHandle, works: Sequence[GenerationJob]) -> None:
        try:
            self._check_room(ticket)
            first = 0
            for work in works:
                seed = work.params.seed or 0
                copies = [replace(work, params=replace(work.params, seed=seed + i)) for i in range(work.count)]
                leader, *siblings = [ChoiceState(ticket, first + i, copy) for i, copy in enumerate(copies)]
                leader.siblings = siblings
                self._begin(leader)
                self.metrics.prompt_tokens.inc(len(work.prompt_token_ids))
                first += work.count
        except Exception as error:
            self._drop(ticket)
            if not isinstance(error, (ApiError, BadInputError)):
                logger.exception("a request could not be started")
            refusal = bad_input(error) if isinstance(error, BadInputError) else error if isinstance(error, ApiError) else internal_error()
            self._outbox.append((ticket, refusal))
        else:
            self._outbox.append((ticket, None))

    def _check_room(self, ticket: RequestHandle) -> None:
        """429 when this key has its share of the queue already."""
        size = self.llm.engine.config.max_num_seqs
        if ticket.num_choices > size + self.settings.max_queue:
            raise ApiError(400, f"{ticket.num_choices} answers at once are more than this server takes ({size + self.settings.max_queue})")
        choices = [choice for held in self._choices.values() for choice in held]
        own = [choice for choice in choices if choice.ticket.cache_salt == ticket.cache_salt]
        num_waiting = min(sum(choice.job is None or choice.job.request.slot is None for choice in own), max(0, len(choices) - size))
        if num_waiting + ticket.num_choices > self.settings.max_queue + max(0, size - len(choices)):
            wait = min(60, math.ceil(self._mean_seconds * (num_waiting + 1) / size))
            raise ApiError(429, f"the queue is full: {num_waiting} requests wait", code="queue_full", retry_after=wait)

    def _begin(self, choice: ChoiceState) -> None:
        work = choice.work
        choice.job = self.llm.submit(
            work.prompt_token_ids,
            work.params,
            speculative_config=work.speculative,
            prediction=work.prediction,
            cache_salt=choice.ticket.cache_salt,
        )
        choice.job.request.stats.added_at = choice.ticket.arrived_at
        held = self._choices.setdefault(choice.ticket, [])
        held.extend(new for new in (choice, *choice.siblings) if new not in held)

    def _drop(self, ticket: RequestHandle) -> None:
        for choice in self._choices.pop(ticket, []):
            if choice.job is not None:
                self.llm.abort(choice.job)

    def _expire(self) -> None:
        now = time.perf_counter()
        for ticket in [ticket for ticket in self._choices if ticket.deadline < now]:
            self._drop(ticket)
            limit = self.settings.request_timeout
            self._outbox.append((ticket, ApiError(504, f"the request took longer than {limit:g} s", code="request_timeout")))
            self.metrics.requests.labels("timeout").inc()

    def _step(self) -> None:
        started = time.perf_counter()
        try:
            jobs = {id(job) for job in self.llm.step()}
        except Exception:
            logger.exception("a step of the engine failed; the requests in it end")
            self._fail_all(internal_error())
            return
        now = time.perf_counter()
        for choices in list(self._choices.values()):
            for choice in list(choices):
                if choice.job is None or id(choice.job) not in jobs or choice.ticket not in self._choices:
                    continue  # the last: another answer to the same request has just failed
                try:
                    self._advance(choice, choice.job, now, 1e3 * (now - started))
                except Exception:
                    logger.exception("a request failed behind the engine")
                    self._fail(choice.ticket, internal_error())

    def _advance(self, choice: ChoiceState, job: Job, now: float, milliseconds: float) -> None:
        """Send what a step gave one choice, and let its siblings follow."""
        ticket, request = choice.ticket, job.request
        if request.finish_reason == "error":
            self._fail(ticket, bad_input(request.error) if isinstance(request.error, BadInputError) else internal_error())
            return
        piece = job.take()
        self._measure(choice, job, len(piece.token_ids), now)
        self._outbox.append((ticket, Event(choice.index, choice.num_steps, milliseconds, piece)))
        choice.num_steps += 1
        if piece.output is not None:
            self.llm.abort(job)
            held = self._choices[ticket]
            held.remove(choice)
            if not held:
                del self._choices[ticket]
        siblings, choice.siblings = choice.siblings, []
        for sibling in siblings:
            self._begin(sibling)

    def _fail(self, ticket: RequestHandle, error: ApiError) -> None:
        """End one request by an error: the client's own (a grammar that fails on the way), or ours, which the log has."""
        self._drop(ticket)
        self._outbox.append((ticket, error))
        self.metrics.requests.labels("error").inc()

    def _measure(self, choice: ChoiceState, job: Job, num_tokens: int, now: float) -> None:
        arrived_at, stats = choice.ticket.arrived_at, job.request.stats
        if choice.num_steps == 0:
            self.metrics.queue.observe(max(0.0, stats.prefill_started_at - arrived_at))
            self.metrics.first_token.observe(now - arrived_at)
            num_tokens -= 1  # the others came at the same moment
        self.metrics.add_tokens(num_tokens, now - choice.last_at if choice.num_steps else 0.0)
        choice.last_at = now
        if job.is_done:
            self._mean_seconds += 0.1 * (now - arrived_at - self._mean_seconds)
            self.metrics.whole.observe(now - arrived_at)
            self.metrics.requests.labels(job.request.finish_reason or "").inc()

    def _fail_all(self, error: ApiError) -> None:
        for ticket in list(self._choices):
            self._drop(ticket)
            self._outbox.append((ticket, error))

    def _flush(self) -> None:
        """Hand the events of a step to the event loop in one go."""
        events, self._outbox = self._outbox, []
        for loop in {ticket.loop for ticket, _ in events}:
            own = [(ticket, event) for ticket, event in events if ticket.loop is loop]
            try:
                loop.call_soon_threadsafe(_deliver, own)
            except RuntimeError:  # the loop has been closed: nobody is there any more
                for ticket, _ in own:
                    self._drop(ticket)


def _deliver(events: Sequence[tuple[RequestHandle, Event | ApiError | None]]) -> None:
    for ticket, event in events:
        ticket.inbox.put_nowait(event)
