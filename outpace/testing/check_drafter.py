"""check_drafter: proves that a drafter keeps the rules of the interface."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from outpace.arrays import Array
from outpace.config import EngineConfig
from outpace.drafters.base import (
    CostlyDrafter,
    Drafter,
    DrafterContext,
    PromptObserver,
    ResetObserver,
    StepObserver,
    SuccessorSource,
    reset,
    wants_prompt,
)
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.targets.base import TargetModel, TargetOutput
from outpace.targets.toy import ToyTarget
from outpace.testing.doubles import InexactTarget
from outpace.testing.harness import Build, generate, make_request, require
from outpace.tree.draft import Draft, Verdict, check
from outpace.tree.segment import TreeBatch

CONFIG = EngineConfig(max_num_seqs=64, on_drafter_error="continue")  # _Watched remembers errors


class _Watched(PromptObserver, ResetObserver, StepObserver):
    """Passes everything on to a drafter; remembers its drafts and its first error, which the engine would only log.

    `is_batched`: whether it is asked for the drafts of a step at once or one by one.
    """

    def __init__(self, inner: Drafter, target: TargetModel, is_batched: bool = True):
        self.inner, self.capabilities, self.name, self.is_batched = inner, target.capabilities, type(inner).__name__, is_batched
        self.drafts: list[tuple[Any, ...]] = []
        self.ended: set[str] = set()
        self.error: Exception | None = None
        self.num_draft_tokens, self.wants_prompt = inner.num_draft_tokens, wants_prompt(inner)

    def _call(self, requests: Sequence[Request], method: Callable[..., Any], *args: Any) -> Any:
        before = [(list(request.token_ids), deepcopy(request.unconfirmed)) for request in requests]
        try:
            result = method(*args)
            after = [(request.token_ids, request.unconfirmed) for request in requests]
            for request, (token_ids, unconfirmed) in zip(requests, before, strict=True):
                request.token_ids, request.unconfirmed = list(token_ids), deepcopy(unconfirmed)
            require(after == before, f"{getattr(method, '__name__', 'reset')} changed the tokens of the request")
            return result
        except Exception as error:
            self.error = self.error or error
            raise

    def num_reusable_prefix(self, request: Request) -> int:
        if not isinstance(self.inner, PromptObserver):
            return len(request.token_ids)
        known: int = self._call([request], self.inner.num_reusable_prefix, request)
        return known

    def begin(self, request: Request) -> None:
        self.ended.discard(request.id)
        self._call([request], self.inner.begin, request)

    def observe_prompt(self, request: Request, start: int, hidden: Array) -> None:
        if isinstance(self.inner, PromptObserver):
            self._call([request], self.inner.observe_prompt, request, start, hidden)

    def propose(self, request: Request, budget: int) -> Draft:
        return self.propose_batch([request], [budget])[0]

    def propose_batch(self, requests: Sequence[Request], budgets: Sequence[int]) -> list[Draft]:
        if self.is_batched:
            drafts: list[Draft] = self._call(requests, self.inner.propose_batch, requests, budgets)
        else:
            drafts = [self._call([one], self.inner.propose, one, budget) for one, budget in zip(requests, budgets, strict=True)]
        self._call(requests, self._check, requests, budgets, drafts)
        return drafts

    def _check(self, requests: Sequence[Request], budgets: Sequence[int], drafts: Sequence[Draft]) -> None:
        require(len(drafts) == len(requests), f"propose_batch returned {len(drafts)} drafts for {len(requests)} requests")
        for request, budget, draft in zip(requests, budgets, drafts, strict=True):
            check(draft, self.capabilities.vocab_size, budget, self.capabilities.num_vectors)
            self.drafts.append((tuple(request.context), budget, tuple(draft.token_ids), tuple(draft.parents), draft.num_lookahead))

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self._call([request], self.inner.observe, request, verdict, output)

    def reset(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self._call([request], partial(reset, self.inner), request, verdict, output)

    def end_step(self) -> None:
        if isinstance(self.inner, StepObserver):
            self.inner.end_step()

    def end(self, request: Request) -> None:
        self.ended.add(request.id)
        self._call([request], self.inner.end, request)

    def check_views(self, outputs: Sequence[Array]) -> None:
        """Raise AssertionError if the drafter still holds the memory of these outputs, which the next forward pass overwrites."""
        for name, value in vars(self.inner).items():
            for array in _arrays(value, set()):
                if any(np.may_share_memory(array, output) for output in outputs):
                    raise AssertionError(f"{self.name} keeps a view of the target's output in {name!r}: copy what you keep beyond a step")

    def conclude(self) -> None:
        """Raise AssertionError after a failed call, or if the drafter still remembers an ended request."""
        if self.error is not None:
            raise AssertionError(f"{self.name} failed: {self.error!r}") from self.error
        held = [name for name, value in vars(self.inner).items() if _mentions(value, self.ended)]
        require(not held, f"{self.name}: after end() the request is still remembered in {', '.join(held)}")


def check_drafter(build: Build, target: TargetModel | None = None) -> None:
    """Check that text never changes, budgets hold, drafts depend on the text alone (whether it is drafted alone or in a batch), outputs are
    not kept beyond a step, and ended requests are forgotten. Raises AssertionError.

    Runs one request and a ragged batch of three (one of them a prompt of one token), greedy and sampled, with an abort and a preemption
    (the request is ended, and begun again later with the text that it has by then) in between. Without
    `target` it runs on a toy model with exact trees and on one without, where part of the context may change again.
    """
    for toy in [target] if target else [ToyTarget(sharpness=3.0), InexactTarget(sharpness=3.0)]:
        _check_mixins(type(build(DrafterContext(toy))))
        _check_text(build, toy)


def _check_mixins(drafter: type[Drafter]) -> None:
    """A method of a mixin is called only where the class inherits the mixin."""
    for mixin in (PromptObserver, SuccessorSource, CostlyDrafter, ResetObserver, StepObserver):
        for method in sorted(mixin.__abstractmethods__ - Drafter.__abstractmethods__):
            is_lost = hasattr(drafter, method) and not issubclass(drafter, mixin)
            require(not is_lost, f"{drafter.__name__} has {method}() but does not inherit {mixin.__name__}, so nobody calls it")


def _check_text(build: Build, target: TargetModel) -> None:
    """The same text as plain decoding, and the same drafts for the same text."""
    prompts = [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3], [5, 6, 5, 6, 5], [7]]
    for temperature in (0.0, 0.8):
        params = SamplingParams(temperature=temperature, max_tokens=24)
        for batch in (prompts[:1], prompts):
            plain = generate(target, batch, params)
            for count in (0, 1, 3, 8):
                watched = [_Watched(build(DrafterContext(target)), target, is_batched) for is_batched in (True, False)]
                for drafter in watched:
                    with _views_checked(drafter, target):
                        got = generate(target, batch, params, drafter, num_draft_tokens=count, config=CONFIG)
                    drafter.conclude()
                    where = f"{drafter.name}, temperature {temperature}, batch of {len(batch)}, num_draft_tokens {count}"
                    require(got == plain, f"{where}: {got}, but plain decoding gives {plain}")
                require(watched[0].drafts == watched[1].drafts, f"{where}: two runs over the same text drafted differently")
        _check_abort(_Watched(build(DrafterContext(target)), target), target, prompts, plain, params)


@contextmanager
def _views_checked(drafter: _Watched, target: TargetModel) -> Iterator[None]:
    """Before each forward pass, check that the drafter has let go of the outputs of the one before."""
    forward, lent = target.forward, list[Array]()

    def watched(batch: TreeBatch, num_tokens: int = 0) -> TargetOutput:
        drafter.check_views(lent)
        output = forward(batch, num_tokens)
        lent[:] = [array for array in (output.logits, output.hidden, output.prompt_hidden) if array is not None]
        return output

    with patch.object(target, "forward", watched):
        yield


def _check_abort(drafter: _Watched, target: TargetModel, prompts: list[list[int]], plain: list[list[int]], params: SamplingParams) -> None:
    """The same drafter object serves a batch of which one request is aborted and one is preempted, then a second batch."""
    for _ in range(2):
        engine = Engine(target, CONFIG)
        requests = [make_request(target, prompt, params, drafter, seed=i) for i, prompt in enumerate(prompts)]
        for request in requests:
            engine.add(request)
        for _ in range(3):
            engine.step()
        engine.abort(requests[1])
        if requests[2].slot is not None:
            engine.preempt(requests[2])
        while engine.has_unfinished:
            engine.step()
        drafter.conclude()
        for i in (0, 2):
            got = requests[i].output_token_ids
            what = "after it had to wait in between" if requests[i].stats.num_preemptions else "after an abort of another request"
            require(got == plain[i], f"{drafter.name}: {what}: {got}, but plain decoding gives {plain[i]}")


def _mentions(value: Any, ids: Collection[str], depth: int = 4) -> bool:
    """Whether a value contains one of these requests or their ids, in whatever containers."""
    if isinstance(value, (str, Request)):
        return (value if isinstance(value, str) else value.id) in ids
    if depth == 0 or isinstance(value, (type, TargetModel)):
        return False
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    elif hasattr(value, "__dict__"):
        value = vars(value).values()
    elif not isinstance(value, (list, tuple, set, frozenset, deque)):
        return False
    return any(_mentions(item, ids, depth - 1) for item in list(value))


def _arrays(value: Any, seen: set[int], depth: int = 8) -> Iterator[Array]:
    """The arrays that a value contains, in whatever containers."""
    if isinstance(value, np.ndarray):
        yield value
        return
    if depth == 0 or id(value) in seen or isinstance(value, (int, float, str, type, TargetModel)):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        items = list(value)
    else:
        items = list(getattr(value, "__dict__", {}).values())
    for item in items:
        yield from _arrays(item, seen, depth - 1)
