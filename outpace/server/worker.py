"""The server's policy around the engine: how long the queue may be, how long a request may take, what is measured, how it ends."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence

from fastapi import Request as HTTPRequest

from outpace.async_llm import AsyncLLM, GenerationJob, Message, RequestHandle
from outpace.config import SpeculativeConfig
from outpace.controller.factory import with_prediction
from outpace.errors import BadInputError, OutpaceError
from outpace.llm import LLM
from outpace.outputs import Event
from outpace.sampling.processors import build_processors
from outpace.server.api_errors import ApiError, bad_input, internal_error
from outpace.server.prometheus import ServerMetrics
from outpace.server.settings import ServerSettings


class ServerRequest:
    """One HTTP request at the engine. Close it in the end, whatever happened."""

    def __init__(self, worker: Worker, num_answers: int, cache_salt: str):
        self.worker, self.num_answers, self.cache_salt = worker, num_answers, cache_salt
        self.arrived_at = time.perf_counter()
        self.deadline = self.arrived_at + worker.settings.request_timeout
        self.handle: RequestHandle | None = None  # from its acceptance on
        self.timer: asyncio.TimerHandle | None = None
        self.last_at: dict[int, float] = {}  # answer -> end of its last step
        self.num_done = 0

    @property
    def num_open(self) -> int:
        """Answers that are queued or running."""
        return self.num_answers - self.num_done

    @property
    def num_waiting(self) -> int:
        """Answers that have no slot yet."""
        if self.handle is None or not self.handle.jobs:
            return self.num_answers
        return sum(not job.is_done and job.request.slot is None for job in self.handle.jobs)

    async def start(self, jobs: Sequence[GenerationJob]) -> None:
        """Hand the jobs over and start the timer of the deadline. Raises ApiError when they are rejected.

        What is sure to be accepted does not wait for the engine's running step.
        """
        try:
            is_sure = all(self.worker.is_acceptable(job) for job in jobs)
            self.handle = await self.worker.engine.submit(jobs, self.cache_salt, on_message=self._receive, waits=not is_sure)
        except Exception as error:
            raise as_api_error(error) from error
        self.timer = asyncio.get_running_loop().call_later(max(0.0, self.deadline - time.perf_counter()), self._expire)

    async def events(self) -> AsyncIterator[Event]:
        """All events until every answer is finished. Raises ApiError when the request fails."""
        assert self.handle is not None
        try:
            async for event in self.handle.events():
                yield event
        except OutpaceError as error:
            raise as_api_error(error) from error

    def close(self) -> None:
        """The client needs no more: what still runs is freed within one step."""
        self.worker.requests.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if self.handle is not None and self.num_open:
            self._end("abort")
        if self.handle is not None:
            self.handle.close()

    def _expire(self) -> None:
        if self.num_open and self.handle is not None and not self.handle.is_closed:
            limit = self.worker.settings.request_timeout
            self._end("timeout")
            self.handle.fail(ApiError(504, f"the request took longer than {limit:g} s", code="request_timeout"))

    def _receive(self, handle: RequestHandle, message: Message) -> None:
        """Keep account of what has just happened."""
        if message is None:
            self.handle = handle  # the next message may come before `start` goes on
            return
        if isinstance(message, Event):
            if message.ended_at - message.milliseconds / 1e3 > self.deadline:  # the engine was faster than the timer
                self._expire()
            else:
                self._measure(message, handle)
        elif self.handle is not None and self.num_open:  # accepted, and failed for another reason than `_expire`
            self._end("error" if isinstance(message, OutpaceError) else "abort")

    def _end(self, reason: str) -> None:
        """Count the answers that are still open as ended."""
        self.worker.metrics.requests.labels(reason).inc(self.num_open)
        self.num_done = self.num_answers

    def _measure(self, event: Event, handle: RequestHandle) -> None:
        """Times as the client sees them, by the clock of the engine."""
        metrics, output, num_tokens = self.worker.metrics, event.piece.output, len(event.piece.token_ids)
        if event.index not in self.last_at:
            metrics.queue.observe(max(0.0, handle.jobs[event.index].request.stats.prefill_started_at - self.arrived_at))
            metrics.first_token.observe(event.ended_at - self.arrived_at)
            num_tokens -= 1  # the others came at the same moment
        metrics.add_tokens(num_tokens, event.ended_at - self.last_at.get(event.index, event.ended_at))
        self.last_at[event.index] = event.ended_at
        if output is not None:
            self.num_done += 1
            self.worker.record_duration(event.ended_at - self.arrived_at)
            metrics.requests.labels(output.finish_reason).inc()


class Worker:
    """Admits requests to the engine. All methods but `stop` belong to the event loop."""

    def __init__(self, llm: LLM, settings: ServerSettings, metrics: ServerMetrics):
        self.settings, self.metrics = settings, metrics
        self.engine = AsyncLLM(llm)
        self.is_draining = False
        self.requests: set[ServerRequest] = set()
        self._mean_seconds = 1.0  # of a request, lately

    @property
    def is_dead(self) -> bool:
        """Whether the engine's thread has ended by an error: only a new process helps."""
        return self.engine.is_dead

    async def submit(self, jobs: Sequence[GenerationJob], cache_salt: str) -> ServerRequest:
        """Hand a request over. Raises ApiError when it is rejected: 400, 429 for a full queue, 503 at shutdown."""
        self.check_health()
        request = ServerRequest(self, sum(job.sampling_params.n for job in jobs), cache_salt)
        self.check_room(request.num_answers, cache_salt)
        self.requests.add(request)
        try:
            await request.start(jobs)
        except BaseException:
            request.close()
            raise
        for job in jobs:
            self.metrics.prompt_tokens.inc(len(job.prompt))
        return request

    def check_health(self) -> None:
        """Raises ApiError (503) when no more requests are accepted."""
        if self.is_dead or self.is_draining:
            raise ApiError(503, "the engine has stopped" if self.is_dead else "the server is shutting down", code="unavailable")

    def is_acceptable(self, job: GenerationJob) -> bool:
        """Whether the engine is sure to accept this job; False when only the engine's thread can tell, because the drafter
        has not been built yet. Raises BadInputError for what the engine would reject."""
        llm, params = self.engine.llm, job.sampling_params
        if isinstance(job.prompt, str):
            return False
        llm.engine.check(job.prompt, params.max_tokens)
        build_processors(params, job.prompt, frozenset(params.stop_token_ids), llm.target.capabilities.vocab_size)
        config = job.speculative_config
        return isinstance(config, SpeculativeConfig) and llm.strategies.is_built(with_prediction(config) if job.prediction else config)

    def fail_all(self, error: ApiError) -> None:
        """End every request with this error."""
        self.engine.fail_all(error)

    def stop(self) -> None:
        """End the engine's thread after its current step; requests still running end with 503."""
        self.is_draining = True
        self.engine.shutdown(ApiError(503, "the server is shutting down", code="unavailable"))

    def record_duration(self, seconds: float) -> None:
        """An answer was finished so long after its request arrived."""
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self.metrics.whole.observe(seconds)

    async def check_room_for_one(self, request: HTTPRequest) -> None:
        """Raises ApiError before anything is computed for a request that has no chance."""
        self.check_health()
        self.check_room(1, getattr(request.state, "cache_salt", ""))

    def check_room(self, num_answers: int, cache_salt: str) -> None:
        """Raises ApiError (429) when this key has its share of the queue already."""
        size = self.engine.llm.engine.config.max_num_seqs
        most = size + self.settings.max_queue
        if num_answers > most:
            raise ApiError(400, f"{num_answers} answers at once are more than this server takes ({most})", param="n")
        num_open = sum(held.num_open for held in self.requests)
        num_own = sum(held.num_waiting for held in self.requests if held.cache_salt == cache_salt)
        num_waiting = min(num_own, max(0, num_open - size))
        if num_waiting + num_answers > self.settings.max_queue + max(0, size - num_open):
            wait = min(60, math.ceil(self._mean_seconds * (num_waiting + 1) / size))
            raise ApiError(429, f"the queue is full: {num_waiting} requests wait", code="queue_full", retry_after=wait)


def as_api_error(error: Exception) -> ApiError:
    """What the client is told: what it can correct (400), or only that the server failed (500); the log has the details."""
    if isinstance(error, ApiError):
        return error
    return bad_input(error) if isinstance(error, BadInputError) else internal_error()
