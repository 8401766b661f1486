"""AsyncLLM: an LLM for asyncio. The engine runs in a thread of its own; the event loop hands requests over and gets events back."""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from outpace.controller.strategy import Strategy
from outpace.errors import BadInputError, OutpaceError
from outpace.llm import LLM, SamplingLike, SpeculativeLike
from outpace.models.find import DEFAULT_MODEL
from outpace.models.tokenizer import Messages
from outpace.outputs import Event, Job, StreamPiece, failure
from outpace.params import Prompt, SamplingParams, prompts_of

logger = logging.getLogger("outpace")


@dataclass(frozen=True)
class GenerationJob:
    """One prompt with its settings; `sampling_params.n` answers are given to it. `prediction`: text or tokens that the caller expects."""

    prompt: Prompt
    sampling_params: SamplingParams
    speculative_config: SpeculativeLike = None
    prediction: Prompt | None = None


Message = Event | Exception | None  # None: the request has been accepted
OnMessage = Callable[["RequestHandle", Message], None]


class RequestHandle:
    """The event loop's end of a request, whose events come out of it. Close it in the end, whatever happened.

    `num_answers` counts all answers to all its prompts; `jobs` are those of the engine, empty until they are accepted.
    """

    def __init__(self, engine: AsyncLLM, request_id: str, num_answers: int, on_message: OnMessage | None):
        self.engine, self.request_id, self.num_answers, self.on_message = engine, request_id, num_answers, on_message
        self.loop = asyncio.get_running_loop()
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.jobs: list[Job] = []
        self.num_steps: list[int] = []  # of each job
        self.is_closed = False

    async def events(self) -> AsyncIterator[Event]:
        """All events until every answer is finished. Raises the exception that the request ends with, if it does."""
        num_done = 0
        while num_done < self.num_answers:
            message = await self.inbox.get()
            if isinstance(message, Exception):
                raise message
            if message is not None:
                num_done += message.piece.output is not None
                yield message

    def deliver(self, message: Message) -> None:
        """In the event loop: the next thing that happened to the request."""
        if self.is_closed:
            return
        if self.on_message is not None:
            self.on_message(self, message)
        self.inbox.put_nowait(message)

    def fail(self, error: Exception) -> None:
        """End the request with this error."""
        self.deliver(error)
        self.close()

    def close(self) -> None:
        """Nobody needs more of this request: what still runs is freed within one step."""
        self.is_closed = True
        self.engine.release(self)


class AsyncLLM:
    """An LLM for asyncio: any number of coroutines may generate at once, and their requests run together in one batch.

    Wraps an LLM, or builds one from the arguments of LLM; `generate` may be used as in docs/server.md.

    The engine's thread starts with the first request. End it with `await close()`, or use `async with AsyncLLM(...) as llm:`. An LLM
    that was passed in stays open, and may be called directly in the meantime.
    """

    def __init__(self, model: LLM | Any = DEFAULT_MODEL, speculative_config: Any = None, **options: Any):
        self.owns_llm = not isinstance(model, LLM)
        if not self.owns_llm and (speculative_config is not None or options):
            raise BadInputError("an LLM brings its own settings: pass no others to AsyncLLM")
        self.llm: LLM = LLM(model, speculative_config, **options) if self.owns_llm else model
        self.is_dead = False  # the engine's thread has ended by an error: only a new process helps
        self.is_closed = False
        self.handles: dict[str, RequestHandle] = {}  # open requests; belongs to the event loop
        self._gate = threading.Lock()  # closing and handing over exclude each other
        self._running: dict[RequestHandle, list[int]] = {}  # indices of its unfinished jobs; belongs to the engine's thread
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._outbox: list[tuple[RequestHandle, Message]] = []
        self._thread: threading.Thread | None = None

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def generate(
        self,
        prompt: Prompt | Messages,
        sampling_params: SamplingLike = None,
        *,
        request_id: str | None = None,
        speculative_config: SpeculativeLike = None,
        prediction: Prompt | None = None,
        cache_salt: str = "",
    ) -> AsyncIterator[StreamPiece]:
        """Complete a raw text or token ids, or answer a conversation (a list of {"role", "content"}), piece by piece.

        With `n` answers it gives the pieces of all of them, marked by `index`; the last piece of each has its whole `output`.
        Cancelling the iteration, or closing the iterator, aborts the request. `request_id` is a name for `abort`.
        Requests of different `cache_salt` share no K/V, drafters learn nothing across them, and they take turns at being admitted.
        Raises OutpaceError when the request fails, or the BadInputError that ended it.
        """
        params = SamplingParams.of(sampling_params)
        token_ids = await asyncio.to_thread(self._encode, prompt)
        if params.structured is not None:
            await asyncio.to_thread(self.llm.grammars.prepare, params.structured)
        job = GenerationJob(token_ids, params, speculative_config, prediction)
        handle = await self.submit([job], cache_salt, request_id)
        try:
            async for event in handle.events():
                yield event.piece
        finally:
            handle.close()

    async def abort(self, request_id: str) -> None:
        """End a request within one step: its last piece has the finish_reason "abort". Unknown ids are ignored: it may just have ended."""
        handle = self.handles.get(request_id)
        if handle is not None:
            self._commands.put(partial(self._end_early, handle))

    async def close(self) -> None:
        """End the engine's thread after its current step, and running requests with OutpaceError; close an LLM that was built here."""
        await asyncio.to_thread(self.shutdown)

    def shutdown(self, error: Exception | None = None) -> None:
        """`close` for callers without an event loop; running requests end with `error`."""
        with self._gate:
            self.is_closed = True
        if self._thread is not None:
            self.fail_all(error or OutpaceError("the AsyncLLM was closed"))
            self._thread.join()
            atexit.unregister(self.shutdown)
        if self.owns_llm:
            self.llm.close()

    # ---- requests, for callers that serve several prompts in one request

    async def submit(
        self,
        jobs: Sequence[GenerationJob],
        cache_salt: str = "",
        request_id: str | None = None,
        on_message: OnMessage | None = None,
        waits: bool = True,
    ) -> RequestHandle:
        """Hand over the prompts of one request; returns when the engine has accepted them. Raises the error if they are rejected.

        The events of the handle number the answers to all prompts, prompt by prompt. `on_message` is called in the event loop for each
        of them as it arrives, read or not. Without `waits` it returns at once, and a rejection ends the events.
        """
        self.check_health()
        jobs = [await self._prepared(job) for job in jobs]
        request_id = uuid.uuid4().hex if request_id is None else request_id
        if not isinstance(request_id, str) or request_id in self.handles:
            raise BadInputError(f"request_id must be a string that no running request has, not {request_id!r:.80}")
        handle = RequestHandle(self, request_id, sum(job.sampling_params.n for job in jobs), on_message)
        self.handles[request_id] = handle  # before the look at is_dead, so that a dying thread sees it
        try:
            with self._gate:
                self.check_health()
                self._start()
                self._commands.put(partial(self._accept, handle, jobs, cache_salt))
            answer = await handle.inbox.get() if waits else None
            if isinstance(answer, Exception):
                raise answer
        except BaseException:
            handle.close()
            raise
        return handle

    async def _prepared(self, job: GenerationJob) -> GenerationJob:
        """The job with its strategy, built in a thread of its own, so that the others go on. Raises BadInputError."""
        wanted = job.speculative_config, bool(job.prediction)
        known = None if isinstance(wanted[0], Strategy) else self.llm.strategies.known(self.llm.settings(*wanted))
        return replace(job, speculative_config=known or await asyncio.to_thread(self.llm.strategy, *wanted))

    def check_health(self) -> None:
        """Raises OutpaceError when no more requests are accepted."""
        if self.is_dead or self.is_closed:
            raise OutpaceError("the engine has stopped; the log says why" if self.is_dead else "the AsyncLLM was closed")
        self.llm.check_usable()

    def release(self, handle: RequestHandle) -> None:
        """Forget a request and free its slots."""
        if self.handles.get(handle.request_id) is handle:
            del self.handles[handle.request_id]
            self._commands.put(partial(self._drop, handle))

    def fail_all(self, error: Exception) -> None:
        """End every running request with this error."""
        self._commands.put(partial(self._fail_all, error))

    def _encode(self, prompt: Any) -> Prompt:
        """The tokens of one prompt or conversation. Raises BadInputError."""
        batch = prompts_of(prompt)
        if isinstance(batch[0], Mapping):
            return self.llm.tokenizer.encode_chat(prompt)
        if len(batch) != 1:
            raise BadInputError("AsyncLLM.generate takes one prompt: call it once for each of several")
        return self.llm.tokenizer.encode(batch[0]) if isinstance(batch[0], str) else batch[0]

    # ---- the engine's thread

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="outpace-engine", daemon=True)
            self._thread.start()
            atexit.register(self.shutdown)  # a thread inside native code must not outlive the interpreter

    def _run(self) -> None:
        try:
            while True:
                is_closing = self.is_closed  # read first: no request is handed over after it
                self._obey()
                if is_closing and not self._running:
                    return
                self._step()
                self._flush()
        except BaseException:
            logger.critical("the engine's thread ends", exc_info=True)
            self.is_dead = True
            self._outbox = [(handle, OutpaceError("the engine has stopped; the log says why")) for handle in list(self.handles.values())]
            self._flush()

    def _obey(self) -> None:
        """Carry out what the event loop asked for; sleep while there is nothing to do at all."""
        if not self._running and not self.is_closed:
            self._commands.get()()
        while not self._commands.empty():
            self._commands.get()()
        self._flush()

    def _accept(self, handle: RequestHandle, works: Sequence[GenerationJob], cache_salt: str) -> None:
        accepted: list[Job] = []
        try:
            for work in works:
                options: dict[str, Any] = {"speculative_config": work.speculative_config, "prediction": work.prediction}
                accepted += self.llm.submit_all(work.prompt, work.sampling_params, **options, cache_salt=cache_salt)
        except Exception as error:
            self._abort(accepted)
            if not isinstance(error, BadInputError):
                logger.exception("a request could not be started")
            self._outbox.append((handle, failure(error)))
        else:
            handle.jobs, handle.num_steps = accepted, [0] * len(accepted)
            self._running[handle] = list(range(len(accepted)))
            self._outbox.append((handle, None))

    def _abort(self, jobs: Sequence[Job]) -> None:
        for job in reversed(jobs):
            self.llm.abort(job)

    def _drop(self, handle: RequestHandle) -> None:
        self._abort([handle.jobs[index] for index in self._running.pop(handle, [])])

    def _fail(self, handle: RequestHandle, error: Exception) -> None:
        self._drop(handle)
        self._outbox.append((handle, error))

    def _fail_all(self, error: Exception) -> None:
        for handle in list(self._running):
            self._fail(handle, error)

    def _end_early(self, handle: RequestHandle) -> None:
        """End the answers of a request where they are."""
        if indices := list(self._running.get(handle, [])):
            self._abort([handle.jobs[index] for index in indices])
            self._advance(handle, indices, time.perf_counter(), 0.0)

    def _step(self) -> None:
        if not self._running:
            return
        started = time.perf_counter()
        try:
            self.llm.step()
        except Exception:
            logger.exception("a step of the engine failed; the requests in it end")
            self._fail_all(OutpaceError("the request failed: a step of the engine failed; the log says why"))
            return
        now = time.perf_counter()
        for handle, indices in list(self._running.items()):
            advanced = [index for index in indices if handle.jobs[index].steps or handle.jobs[index].is_done]
            self._advance(handle, advanced, now, 1e3 * (now - started))

    def _advance(self, handle: RequestHandle, indices: Sequence[int], now: float, milliseconds: float) -> None:
        """Send what a step gave these answers; if one of them fails, the whole request ends."""
        for index in indices:
            job = handle.jobs[index]
            try:
                if job.request.error is not None:
                    self._fail(handle, failure(job.request.error))
                    return
                piece = self.llm.take(job)
            except Exception as error:
                logger.exception("a request failed behind the engine")
                self._fail(handle, failure(error))
                return
            self._outbox.append((handle, Event(index, handle.num_steps[index], milliseconds, now, piece)))
            handle.num_steps[index] += 1
            if piece.output is not None:
                self.llm.abort(job)
                self._running[handle].remove(index)
        if not self._running[handle]:
            del self._running[handle]

    def _flush(self) -> None:
        """Hand the events of a step to the event loop in one go."""
        messages, self._outbox = self._outbox, []
        for loop in {handle.loop for handle, _ in messages}:
            own = [(handle, message) for handle, message in messages if handle.loop is loop]
            try:
                loop.call_soon_threadsafe(_deliver, own)
            except RuntimeError:  # the loop has been closed: its requests have no reader
                for handle, _ in own:
                    self._drop(handle)


def _deliver(messages: Sequence[tuple[RequestHandle, Message]]) -> None:
    for handle, message in messages:
        handle.deliver(message)
