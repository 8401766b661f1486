"""check_drafter: may this drafter be trusted with anybody's request?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

from outpace.arrays import Array
from outpace.config import EngineConfig
from outpace.drafters.base import Drafter, DrafterContext, PromptObserver, ResetObserver, StepObserver, reset, wants_prompt
from outpace.engine.engine import Engine
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.targets.base import TargetModel, TargetOutput
from outpace.targets.toy import ToyTarget
from outpace.testing.doubles import InexactTarget
from outpace.testing.harness import Build, generate, make_request, require
from outpace.tree.draft import Draft, Verdict, check

CONFIG = EngineConfig(max_num_seqs=64, on_drafter_error="continue")  # _Watched remembers errors


class _Watched(PromptObserver, ResetObserver, StepObserver):
    """Passes everything on to a drafter; remembers its drafts and the first error, which the engine would only log."""

    def __init__(self, inner: Drafter, target: TargetModel):
        self.inner, self.capabilities, self.name = inner, target.capabilities, type(inner).__name__
        self.drafts: list[tuple[Any, ...]] = []
        self.ended: set[str] = set()
        self.error: Exception | None = None
        self.num_draft_tokens, self.wants_prompt = inner.num_draft_tokens, wants_prompt(inner)

    def _call(self, method: Callable[..., Any], request: Request, *args: Any) -> Any:
        before, unconfirmed = list(request.token_ids), deepcopy(request.unconfirmed)
        try:
            result, after = method(request, *args), (request.token_ids, request.unconfirmed)
            request.token_ids, request.unconfirmed = list(before), deepcopy(unconfirmed)
            require(after == (before, unconfirmed), f"{getattr(method, '__name__', 'reset')} changed the tokens of the request")
            return result
        except Exception as error:
            self.error = self.error or error
            raise

    def num_reusable_prefix(self, request: Request) -> int:
        if not isinstance(self.inner, PromptObserver):
            return len(request.token_ids)
        known: int = self._call(self.inner.num_reusable_prefix, request)
        return known

    def begin(self, request: Request) -> None:
        self._call(self.inner.begin, request)

    def observe_prompt(self, request: Request, start: int, hidden: Array) -> None:
        if isinstance(self.inner, PromptObserver):
            self._call(self.inner.observe_prompt, request, start, hidden)

    def propose(self, request: Request, budget: int) -> Draft:
        draft: Draft = self._call(self.inner.propose, request, budget)
        self._call(lambda _: check(draft, self.capabilities.vocab_size, budget, self.capabilities.num_vectors), request)
        self.drafts.append((tuple(request.context), budget, tuple(draft.token_ids), tuple(draft.parents), draft.num_lookahead))
        return draft

    def observe(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self._call(self.inner.observe, request, verdict, output)

    def reset(self, request: Request, verdict: Verdict, output: TargetOutput) -> None:
        self._call(partial(reset, self.inner), request, verdict, output)

    def end_step(self) -> None:
        if isinstance(self.inner, StepObserver):
            self.inner.end_step()

    def end(self, request: Request) -> None:
        self.ended.add(request.id)
        self._call(self.inner.end, request)

    def conclude(self) -> None:
        """Raise AssertionError for a failed call, or for an ended request that the drafter still remembers."""
        if self.error is not None:
            raise AssertionError(f"{self.name} failed: {self.error!r}") from self.error
        held = [name for name, value in vars(self.inner).items() if _mentions(value, self.ended)]
        require(not held, f"{self.name}: after end() the request is still remembered in {', '.join(held)}")


def check_drafter(build: Build, target: TargetModel | None = None) -> None:
    """Text never changes, budgets hold, drafts depend on the text alone, ended requests are forgotten. Raises AssertionError.

    Runs alone and in a ragged batch of three (one of them a prompt of one token), greedy and sampled, with an abort in between;
    without `target` on toy models with trees, and with trees that are not exact (there a part of the context may change again).
    """
    for toy in [target] if target else [ToyTarget(sharpness=3.0), InexactTarget(sharpness=3.0)]:
        _check_text(build, toy)


def _check_text(build: Build, target: TargetModel) -> None:
    """The same text as plain decoding, and the same drafts for the same text."""
    prompts = [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3], [5, 6, 5, 6, 5], [7]]
    for temperature in (0.0, 0.8):
        params = SamplingParams(temperature=temperature, max_tokens=24)
        for batch in (prompts[:1], prompts):
            plain = generate(target, batch, params)
            for count in (0, 1, 3, 8):
                watched = [_Watched(build(DrafterContext(target)), target) for _ in range(2)]
                for drafter in watched:
                    got = generate(target, batch, params, drafter, num_draft_tokens=count, config=CONFIG)
                    drafter.conclude()
                    where = f"{drafter.name}, temperature {temperature}, batch of {len(batch)}, num_draft_tokens {count}"
                    require(got == plain, f"{where}: {got}, but plain decoding gives {plain}")
                require(watched[0].drafts == watched[1].drafts, f"{where}: two runs over the same text drafted differently")
        _check_abort(_Watched(build(DrafterContext(target)), target), target, prompts, plain, params)


def _check_abort(drafter: _Watched, target: TargetModel, prompts: list[list[int]], plain: list[list[int]], params: SamplingParams) -> None:
    """The same drafter object serves a batch of which one request is aborted, then a second batch."""
    for _ in range(2):
        engine = Engine(target, CONFIG)
        requests = [make_request(target, prompt, params, drafter, seed=i) for i, prompt in enumerate(prompts)]
        for request in requests:
            engine.add(request)
        for _ in range(3):
            engine.step()
        engine.abort(requests[1])
        while engine.has_unfinished:
            engine.step()
        drafter.conclude()
        for i in (0, 2):
            got = requests[i].output_token_ids
            require(got == plain[i], f"{drafter.name}: after an abort of another request: {got}, but plain decoding gives {plain[i]}")


def _mentions(value: Any, ids: Collection[str], depth: int = 4) -> bool:
    """Does a value hold, in whatever containers, one of these requests or their ids?"""
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
